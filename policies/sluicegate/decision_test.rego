package sluicegate_test

test_nothing_found_allows_and_the_document_is_complete if {
	decide(base) == {
		"effect": "allow",
		"reasons": [],
		"limits": [{"name": "requests.high"}],
		"capture": "sealed_request",
		"review": true,
	}
}

test_a_denial_is_complete_and_draws_from_no_limit if {
	decide(organisation({"licences": []})) == {
		"effect": "deny",
		"reasons": [{
			"code": "licence_missing",
			"rule": "requirements.licence",
			"message": "your organisation lacks the licence key",
			"remedy": "Ask your organisation's administrator to obtain it.",
		}],
		"limits": [],
		"capture": "sealed_request",
		"review": false,
	}
}

test_the_strictest_effect_wins if {
	step_up := {"credential": {"bound": "none"}}
	approval := {"purposes": ["offence"]}
	denial := {"status": "suspended"}
	decide(subject(step_up)).effect == "step_up"
	decide(subject(object.union(step_up, approval))).effect == "require_approval"
	decide(subject(object.union_n([step_up, approval, denial]))).effect == "deny"
}

test_reasons_stand_in_the_order_of_their_weight if {
	facts := where({
		"subject": {"properties": {
			"status": "revoked",
			"tiers": {"cyber": 0},
			"organisation": {"licences": [], "agreements": []},
			"credential": {"bound": "none"},
		}},
		"context": {"budgets": {"cyber": "spent"}},
	})
	gist(decide(facts)) == ["deny", [
		"member_inactive",
		"tier_insufficient",
		"stage_not_admitted",
		"licence_missing",
		"agreement_missing",
		"budget_spent",
		"bound_credential_required",
	]]
}

test_equal_codes_stand_in_a_fixed_order if {
	decision := decide_in(base, {"models": {"guarded": {"requires": {"licences": ["zeta", "alpha", "key"]}}}})
	[reason.message | some reason in decision.reasons] == [
		"your organisation lacks the licence alpha",
		"your organisation lacks the licence zeta",
	]
}

test_every_code_has_a_place_in_the_order if {
	known := data.sluicegate.precedence
	count(known) == count({place | some place in known})
	known.tier_insufficient < known.stage_not_admitted
}

# What a rule beside the shipped ones might find.
finding_about(change) := object.union({"code": "other", "rule": "other.rule", "effect": "deny", "message": "m", "remedy": "r"}, change)

decide_with(found) := decision if {
	decision := data.sluicegate.decision with input as base
		with data.sluicegate.finding as found
		with data.models as world.models
		with data.stages as world.stages
		with data.tiers as world.tiers
		with data.limits as world.limits
}

test_a_finding_about_another_model_changes_nothing if {
	about_plain := finding_about({"model": "plain"})
	decide_with({about_plain}) == decide(base)
	gist(decide_with({about_plain, finding_about({"model": "guarded"})})) == ["deny", ["other"]]
	gist(decide_with({about_plain, finding_about({})})) == ["deny", ["other"]]
}

test_an_effect_that_is_none_denies if {
	decide_with({finding_about({"effect": "permit"})}).effect == "deny"
	decide_with({finding_about({"effect": "permit"}), finding_about({"effect": "step_up"})}).effect == "deny"
}

# Substitutes

opted_in(tiers) := subject({"tiers": tiers, "credential": {"scopes": ["downgrade"]}})

test_a_lower_level_is_served_the_substitute_on_opt_in if {
	decide(opted_in({"cyber": 2})) == {
		"effect": "downgrade",
		"model": "plain",
		"reasons": [
			{
				"code": "downgraded",
				"rule": "decision.downgraded",
				"message": "plain serves this call instead",
				"remedy": "Ask your organisation's administrator for cyber tier 3.",
			},
			{
				"code": "tier_insufficient",
				"rule": "tiers.insufficient",
				"message": "needs cyber 3, has 2",
				"remedy": "Ask your organisation's administrator for cyber tier 3.",
			},
		],
		"limits": [{"name": "requests.general"}],
		"capture": "digest",
		"review": false,
	}
}

test_without_the_opt_in_the_first_remedy_names_the_substitute if {
	decision := decide(subject({"tiers": {"cyber": 0}}))
	gist(decision) == ["deny", ["tier_insufficient", "stage_not_admitted"]]
	decision.reasons[0].remedy == "Call plain instead. Ask your organisation's administrator for cyber tier 3."
	decision.reasons[1].remedy == "Ask your organisation's administrator to join this release."
	not decision.model
}

test_a_lacking_release_is_served_the_substitute_too if {
	facts := object.union(opted_in({}), {"subject": {"properties": {"organisation": {"id": "o-2"}}}})
	decide(asking("tested", facts)).model == "plain"
	decide(asking("tested", opted_in({}))).model == "plain"
	unsuited := {"models": {"plain": {"requires": {"licences": ["other"]}}}}
	decide_in(asking("tested", facts), unsuited).effect == "deny"
	decide_in(asking("tested", opted_in({})), unsuited).effect == "deny"
}

test_an_allowed_model_is_not_substituted if {
	gist(decide(opted_in({"cyber": 3}))) == allowed
}

test_nothing_else_is_substituted if {
	facts := object.union(opted_in({"cyber": 2}), {"subject": {"properties": {"organisation": {"agreements": []}}}})
	decision := decide(facts)
	gist(decision) == ["deny", ["tier_insufficient", "agreement_missing"]]
	decision.reasons[0].remedy == "Ask your organisation's administrator for cyber tier 3."
}

test_a_substitute_must_itself_be_allowed if {
	changes := [
		{"models": {"plain": {"requires": {"licences": ["other"]}}}},
		{"models": {"plain": {"requires": {"bound_credential": true}}}},
		{"models": {"plain": {"stage": "red-team"}}},
		{"models": {"plain": {"stage": "embargoed"}}},
		{"models": {"plain": {"stage": "no-such-stage"}}},
		{"stages": {"general": {"visible_to": ["evaluator"]}}},
		{"models": {"plain": {"wires": ["chat"]}}},
		{"models": {"guarded": {"fallback": "missing"}}},
	]
	facts := object.union(opted_in({"cyber": 2}), {"subject": {"properties": {"credential": {"bound": "none"}}}})
	lighter := {"models": {"guarded": {"requires": {"bound_credential": false}}}}
	decide_in(facts, lighter).effect == "downgrade"
	every change in changes {
		decision := decide_in(facts, object.union(lighter, change))
		gist(decision) == ["deny", ["tier_insufficient"]]
		decision.reasons[0].remedy == "Ask your organisation's administrator for cyber tier 3."
	}
}

test_only_generation_and_its_count_are_substituted if {
	facts := opted_in({"cyber": 2})
	decide(object.union(facts, {"action": {"name": "model.count_tokens"}})).effect == "downgrade"
	decide(object.union(facts, {"action": {"name": "model.list"}})).effect == "deny"
	decide(object.union(facts, {"action": {"name": "model.embed"}})).effect == "deny"
}

test_a_finding_about_the_substitute_alone_changes_nothing_for_the_model_asked_for if {
	decision := decide_in(subject({"tiers": {"cyber": 2}}), {"models": {"plain": {"requires": {"licences": ["other"]}}}})
	codes(decision) == ["tier_insufficient"]
}
