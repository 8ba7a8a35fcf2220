package sluicegate_test

limit_names(decision) := [limit.name | some limit in decision.limits]

test_limits_go_by_stage if {
	limit_names(decide(asking("plain", base))) == ["requests.general"]
	limit_names(decide(base)) == ["requests.high"]
}

test_limits_go_by_the_level_in_the_domains_the_model_asks_for if {
	lighter := {"models": {"guarded": {"requires": {"tiers": {"cyber": 1}}}}}
	limit_names(decide_in(subject({"tiers": {"cyber": 2}}), lighter)) == ["requests.low"]
	limit_names(decide_in(base, lighter)) == ["requests.high"]
	change := {"stages": {"trusted": {"admits": [{}]}}, "models": {"plain": {"stage": "trusted"}}}
	limit_names(decide_in(asking("plain", base), change)) == ["requests.low"]
}

test_an_action_may_have_limits_of_its_own if {
	limit_names(decide(where({"action": {"name": "model.list"}}))) == []
	change := {"limits": {"actions": {"model.count_tokens": [{"name": "requests.count"}]}}}
	limit_names(decide_in(where({"action": {"name": "model.count_tokens"}}), change)) == ["requests.count"]
	limit_names(decide_in(base, change)) == ["requests.high"]
}

test_a_stage_without_limits_takes_the_others if {
	limit_names(decide(asking("tested", subject({"roles": ["red-team"]})))) == ["requests.otherwise"]
}

test_a_level_below_every_entry_takes_the_others if {
	change := {"limits": {"stages": {"general": [{"from_level": 1, "limits": [{"name": "requests.one"}]}]}}}
	limit_names(decide_in(asking("plain", base), change)) == ["requests.otherwise"]
}
