package sluicegate_test

held_level(facts) := held_in("cyber", facts, world.tiers)

held_in(domain, facts, tiers) := level if {
	level := data.sluicegate.level_in(domain) with input as facts
		with data.tiers as tiers
		with data.models as world.models
		with data.stages as world.stages
}

test_the_level_is_the_least_of_grant_cap_and_proof if {
	held_level(base) == 3
	held_level(subject({"tiers": {"cyber": 2}})) == 2
	held_level(organisation({"tiers": {"cyber": 1}})) == 1
	held_level(subject({"vetting": []})) == 1
}

test_what_is_not_granted_is_level_0 if {
	tiers := object.union(world.tiers, {"bio": world.tiers.cyber})
	held_in("cyber", base, tiers) == 3
	held_in("bio", base, tiers) == 0
	held_in("chem", subject({"tiers": {"chem": 1}, "organisation": {"tiers": {"chem": 1}}}), tiers) == 0
}

test_a_grant_beyond_the_highest_level_counts_as_the_highest if {
	held_level(subject({"tiers": {"cyber": 9}, "organisation": {"tiers": {"cyber": 9}}})) == 3
}

test_the_message_says_what_is_needed_and_what_is_held if {
	reason := decide(subject({"tiers": {"cyber": 1}})).reasons[0]
	reason.code == "tier_insufficient"
	reason.rule == "tiers.insufficient"
	reason.message == "needs cyber 3, has 1"
}

safety_only := subject({"vetting": [{"kind": "safety", "level": 2, "verified_at": "2026-01-01T00:00:00Z", "expires_at": null}]})

test_lapsed_vetting_lowers_the_level_and_the_remedy_names_it if {
	decision := decide_in(safety_only, {"models": {"guarded": {"fallback": "none"}}})
	gist(decision) == ["deny", ["tier_insufficient", "stage_not_admitted"]]
	decision.reasons[0].message == "needs cyber 3, has 1"
	decision.reasons[0].remedy == "Renew your vetting: identity."
}

test_the_remedy_names_what_the_needed_level_asks_for if {
	none := {"models": {"guarded": {"fallback": "none", "requires": {"vetting": {"safety": 0}}}}}
	three := decide_in(subject({"vetting": []}), none)
	three.reasons[0].remedy == "Renew your vetting: identity, safety."
	two := decide_in(subject({"vetting": []}), object.union(none, {"models": {"guarded": {"requires": {"tiers": {"cyber": 2}}}}}))
	two.reasons[0].remedy == "Renew your vetting: identity."
}

test_without_the_grant_the_remedy_is_the_grant if {
	facts := object.union(safety_only, {"subject": {"properties": {"tiers": {"cyber": 2}}}})
	decision := decide_in(facts, {"models": {"guarded": {"fallback": "none"}}})
	decision.reasons[0].remedy == "Ask your organisation's administrator for cyber tier 3."
}

test_a_level_that_the_data_does_not_know_cannot_be_held if {
	decision := decide_in(subject({"tiers": {"cyber": 9}, "organisation": {"tiers": {"cyber": 9}}}), {"models": {"guarded": {"requires": {"tiers": {"cyber": 4}}}}})
	decision.reasons[0].message == "needs cyber 4, has 3"
}

test_a_domain_that_the_data_does_not_know_is_level_0 if {
	facts := subject({"tiers": {"chem": 5}, "organisation": {"tiers": {"chem": 5}}})
	decision := decide_in(facts, {"models": {"guarded": {"requires": {"tiers": {"chem": 1}}}}})
	decision.reasons[0].message == "needs chem 1, has 0"
	gist(decide_in(facts, {"models": {"guarded": {"requires": {"tiers": {"chem": 0}}}}})) == allowed
}

test_open_evaluation_is_a_floor_for_every_active_member if {
	nobody := object.union(asking("guarded", subject({"tiers": {"cyber": 0}, "organisation": {"tiers": {"cyber": 0}}})), {})
	decide(nobody).effect == "deny"
	gist(decide_in(nobody, {"tiers": {"cyber": {"open_evaluation": 3}}})) == allowed
	decide_in(nobody, {"tiers": {"cyber": {"open_evaluation": 2}}}).reasons[0].message == "needs cyber 3, has 2"
	suspended := object.union(nobody, {"subject": {"properties": {"status": "suspended"}}})
	gist(decide_in(suspended, {"tiers": {"cyber": {"open_evaluation": 3}}})) == ["deny", ["member_inactive"]]
}

test_open_evaluation_takes_nothing_away if {
	gist(decide_in(base, {"tiers": {"cyber": {"open_evaluation": 1}}})) == allowed
}
