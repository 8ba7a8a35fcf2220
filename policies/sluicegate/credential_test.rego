package sluicegate_test

test_a_credential_expires_at_its_second if {
	gist(decide(credential({"expires_at": "2026-06-01T12:00:01Z"}))) == allowed
	gist(decide(credential({"expires_at": "2026-06-01T12:00:00Z"}))) == ["deny", ["credential_expired"]]
}

scoped(scopes) := credential({"scopes": scopes})

narrow := ["deny", ["credential_scope"]]

test_labels_of_no_family_narrow_nothing if {
	gist(decide(scoped(["downgrade", "openid"]))) == allowed
}

test_wires if {
	gist(decide(scoped(["wire:chat", "wire:messages"]))) == allowed
	gist(decide(scoped(["wire:chat"]))) == narrow
	gist(decide(scoped(["wire:count_tokens"]))) == narrow
}

test_a_list_stands_for_every_wire_of_the_model if {
	list := {"action": {"name": "model.list", "properties": {"wire": "models"}}}
	gist(decide(object.union(scoped(["wire:messages"]), list))) == allowed
	gist(decide(object.union(scoped(["wire:chat"]), list))) == narrow
}

test_models if {
	gist(decide(scoped(["model:guarded", "model:plain"]))) == allowed
	gist(decide(scoped(["model:plain"]))) == narrow
	gist(decide(asking("Team/Model-1", scoped(["model:team/model-1"])))) == allowed
}

test_classes if {
	gist(decide(scoped(["class:cyber-3"]))) == allowed
	gist(decide(scoped(["class:cyber-9"]))) == allowed
	gist(decide(scoped(["class:cyber-2"]))) == narrow
	gist(decide(scoped(["class:cyber-x"]))) == narrow
	gist(decide(scoped(["class:bio-1"]))) == allowed
	gist(decide(scoped(["class:cyber-3", "class:cyber-2"]))) == narrow
}

test_every_family_must_cover_the_call if {
	gist(decide(scoped(["wire:messages", "model:plain"]))) == narrow
	gist(decide(scoped(["wire:messages", "model:guarded", "class:cyber-1"]))) == narrow
}

test_a_bound_credential if {
	gist(decide(credential({"bound": "mtls"}))) == allowed
	gist(decide(credential({"bound": "none"}))) == ["step_up", ["bound_credential_required"]]
	gist(decide(asking("plain", credential({"bound": "none"})))) == allowed
}

token(change) := credential(object.union({"kind": "jwt", "amr": ["pwd", "mfa"], "auth_time": "2026-06-01T11:30:00Z"}, change))

test_a_token_needs_the_methods_of_the_level if {
	decide(token({})).effect == "allow"
	decision := decide(token({"amr": ["pwd"]}))
	gist(decision) == ["step_up", ["authentication_method"]]
	decision.reasons[0].message == "needs a sign-in with mfa"
	gist(decide(credential({"kind": "api_key", "amr": []}))) == allowed
}

test_a_sign_in_grows_too_old_at_its_second if {
	decide(token({"auth_time": "2026-06-01T11:00:01Z"})).effect == "allow"
	gist(decide(token({"auth_time": "2026-06-01T11:00:00Z"}))) == ["step_up", ["authentication_age"]]
}

test_a_sign_in_at_an_unknown_time_is_too_old if {
	decision := decide(token({"auth_time": null}))
	gist(decision) == ["step_up", ["authentication_age"]]
	decision.reasons[0].message == "your token does not say when you signed in"
	decide(token({"auth_time": "2026-06-01T11:00:00Z"})).reasons[0].message == "your sign-in is too long ago"
	ageless := {"tiers": {"cyber": {"levels": [{"level": 3, "authentication": {"amr": ["mfa"]}}]}}}
	gist(decide_in(token({"auth_time": null}), ageless)) == allowed
	gist(decide(asking("plain", token({"auth_time": null})))) == allowed
}

test_age_is_asked_of_tokens_only if {
	gist(decide(token({"kind": "api_key", "auth_time": null}))) == allowed
	gist(decide(token({"kind": "api_key", "auth_time": "2020-01-01T00:00:00Z"}))) == allowed
}

test_a_model_of_a_lower_level_asks_for_neither if {
	old := token({"amr": [], "auth_time": "2020-01-01T00:00:00Z"})
	gist(decide(asking("plain", old))) == allowed
	gist(decide_in(old, {"models": {"guarded": {"requires": {"tiers": {"cyber": 2}}}}})) == allowed
}

test_a_decision_holds_until_the_sign_in_is_too_old if {
	decide(token({})).valid_until == "2026-06-01T12:30:00Z"
	not decide(token({"auth_time": "2026-06-01T11:00:00Z"})).valid_until
	not decide(asking("plain", token({}))).valid_until
}

test_of_several_deadlines_the_first_holds if {
	change := {
		"models": {"guarded": {"requires": {"tiers": {"cyber": 3, "bio": 1}}}},
		"tiers": {"bio": {"open_evaluation": 1, "levels": [{"level": 1, "authentication": {"amr": [], "max_age_s": 2400}}]}},
	}
	decision := decide_in(token({}), change)
	decision.effect == "allow"
	decision.valid_until == "2026-06-01T12:10:00Z"
}
