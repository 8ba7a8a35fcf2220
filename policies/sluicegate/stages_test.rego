package sluicegate_test

test_a_stage_admits_its_own if {
	red := asking("tested", subject({"roles": ["red-team"]}))
	gist(decide(red)) == allowed
	other := asking("tested", subject({"organisation": {"id": "o-2"}}))
	gist(decide(other)) == ["deny", ["stage_not_admitted"]]
}

test_a_retired_model_names_its_successor if {
	decision := decide(asking("old", subject({"roles": ["evaluator", "red-team"]})))
	gist(decision) == ["deny", ["model_retired"]]
	decision.reasons[0].remedy == "Call plain."
}

test_a_successor_that_the_subject_may_not_know_of_is_not_named if {
	change := {"models": {"old": {"fallback": "hidden"}}}
	remedy := decide_in(asking("old", base), change).reasons[0].remedy
	remedy == "List the models to see which ones you may call."
	evaluator := subject({"roles": ["evaluator"]})
	decide_in(asking("old", evaluator), change).reasons[0].remedy == "Call hidden."
}

test_a_retired_model_without_a_successor_points_to_the_list if {
	change := {"models": {"old": {"id": "old", "stage": "retired", "wires": ["messages"], "fallback": false}}}
	decision := decide_in(asking("old", base), change)
	decision.reasons[0].remedy == "List the models to see which ones you may call."
}

test_a_retired_model_is_not_substituted_on_opt_in if {
	decide(asking("old", credential({"scopes": ["downgrade"]}))).effect == "deny"
}

test_a_wave_does_not_bring_back_a_retired_model if {
	change := {"models": {"old": {"wave": "spring"}}}
	decide_in(asking("old", context({"time": "2026-07-02T09:00:00Z"})), change).effect == "deny"
}

red_team(change) := asking("tested", object.union(subject({"roles": ["red-team"]}), {"action": change}))

test_much_output_needs_approval if {
	gist(decide(red_team({"properties": {"max_output_tokens": 5000}}))) == allowed
	decision := decide(red_team({"properties": {"max_output_tokens": 5001}}))
	gist(decision) == ["require_approval", ["output_needs_approval"]]
	decision.reasons[0].message == "more than 5000 output tokens need approval"
	decision.limits == []
}

test_output_without_a_bound_is_the_most_the_model_gives if {
	unbound := red_team({"properties": {"max_output_tokens": 0}})
	decide(unbound).effect == "require_approval"
	decide_in(unbound, {"models": {"tested": {"max_output_tokens": 5001}}}).effect == "require_approval"
	decide_in(unbound, {"models": {"tested": {"max_output_tokens": 5000}}}).effect == "allow"
}

test_only_generation_has_output if {
	gist(decide(red_team({"name": "model.list", "properties": {"max_output_tokens": 0}}))) == allowed
}

test_some_tools_need_approval if {
	decision := decide(red_team({"properties": {"tool_kinds": ["function", "shell"]}}))
	gist(decision) == ["require_approval", ["tools_need_approval"]]
	decision.reasons[0].message == "tools of kind shell need approval"
	gist(decide(red_team({"properties": {"tool_kinds": ["function", "memory"]}}))) == allowed
}
