package sluicegate_test

test_only_an_active_member_calls if {
	gist(decide(subject({"status": "suspended"}))) == ["deny", ["member_inactive"]]
	gist(decide(subject({"status": "revoked"}))) == ["deny", ["member_inactive"]]
}

test_only_an_active_organisation_calls if {
	gist(decide(organisation({"status": "suspended"}))) == ["deny", ["organisation_inactive"]]
	gist(decide(organisation({"status": "withdrawn"}))) == ["deny", ["organisation_inactive"]]
}

test_standing_is_asked_for_models_without_requirements_too if {
	decide(asking("plain", subject({"status": "suspended"}))).effect == "deny"
	decide(asking("plain", organisation({"status": "suspended"}))).effect == "deny"
}
