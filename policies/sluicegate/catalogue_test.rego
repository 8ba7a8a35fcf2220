package sluicegate_test

unknown := decide(asking("unknown", base))

test_an_unknown_model_gives_the_constant_answer if {
	unknown == {
		"effect": "deny",
		"reasons": [{
			"code": "model_not_found",
			"rule": "catalogue.not_found",
			"message": "no such model",
			"remedy": "List the models to see which ones you may call.",
		}],
		"limits": [],
		"capture": "metadata",
		"review": false,
	}
}

test_an_embargoed_model_gives_the_same_answer_whatever_else_is_wrong if {
	troubled := where({
		"subject": {"properties": {
			"status": "suspended",
			"tiers": {"cyber": 0},
			"credential": {"kind": "jwt", "auth_time": "2026-06-01T11:30:00Z", "scopes": ["downgrade", "wire:chat"]},
		}},
		"action": {"properties": {"background": true}},
		"context": {"signals": {"misuse": 1000}, "budgets": {"cyber": "spent"}},
	})
	every facts in [base, troubled] {
		decide(asking("hidden", facts)) == unknown
		decide(asking("unknown", facts)) == unknown
		decide(asking("hidden ", facts)) == unknown
	}
}

test_an_embargoed_model_with_an_open_fallback_stays_hidden if {
	facts := asking("hidden", credential({"scopes": ["downgrade"]}))
	decide_in(facts, {"models": {"hidden": {"fallback": "plain"}}}) == unknown
}

test_a_role_that_may_see_an_embargoed_model_is_judged if {
	decision := decide(asking("hidden", subject({"roles": ["evaluator"]})))
	gist(decision) == allowed
	decision.capture == "sealed"
}

test_other_roles_do_not_see_it if {
	decide(asking("hidden", subject({"roles": ["red-team"]}))) == unknown
}

test_a_role_that_sees_embargoed_models_learns_nothing_of_unknown_ones if {
	decide(asking("unknown", subject({"roles": ["evaluator"]}))) == unknown
}

test_a_stage_that_is_not_in_the_data_hides_its_models if {
	decide_in(asking("plain", base), {"models": {"plain": {"stage": "no-such-stage"}}}) == unknown
}

test_an_empty_list_of_viewers_hides_from_all if {
	decide_in(asking("plain", base), {"stages": {"general": {"visible_to": []}}}) == unknown
}

test_a_wave_opens_the_eyes_too if {
	change := {"models": {"hidden": {"wave": "spring"}}}
	decide_in(asking("hidden", base), change) == unknown
	facts := asking("hidden", context({"time": "2026-07-01T09:00:00Z"}))
	gist(decide_in(facts, change)) == allowed
}
