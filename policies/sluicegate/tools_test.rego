package sluicegate_test

test_tools_that_the_model_denies if {
	decision := decide(action({"tool_kinds": ["function", "mcp"]}))
	gist(decision) == ["deny", ["tool_kind_denied"]]
	decision.reasons[0].message == "this model takes no tools of kind mcp"
}

test_tools_that_the_stage_denies if {
	gist(decide(action({"tool_kinds": ["computer"]}))) == ["deny", ["tool_kind_denied"]]
	gist(decide(asking("plain", action({"tool_kinds": ["computer", "mcp"]})))) == allowed
}

test_other_tools_pass if {
	gist(decide(action({"tool_kinds": ["function", "custom", "shell"]}))) == allowed
}

test_remote_addresses_where_the_stage_denies_them if {
	gist(decide(action({"remote_fetch": true}))) == ["deny", ["remote_fetch_denied"]]
	gist(decide(asking("plain", action({"remote_fetch": true})))) == allowed
}

test_storing_where_the_stage_denies_it if {
	gist(decide(action({"store": true}))) == ["deny", ["store_denied"]]
	gist(decide(asking("plain", action({"store": true})))) == allowed
}

test_a_stage_denies_only_what_it_says if {
	change := {"stages": {"trusted": {"denies": {"remote_fetch": false, "store": false}}}}
	gist(decide_in(action({"remote_fetch": true, "store": true}), change)) == allowed
}

test_nothing_runs_in_the_background if {
	gist(decide(asking("plain", action({"background": true})))) == ["deny", ["background_denied"]]
}
