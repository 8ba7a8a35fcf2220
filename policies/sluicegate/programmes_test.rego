package sluicegate_test

programme(name, roles) := where({
	"action": {"properties": {"program": name}},
	"subject": {"properties": {"roles": roles}},
})

test_a_programme_open_to_all if {
	gist(decide(programme("standard", []))) == allowed
}

test_a_programme_with_conditions if {
	gist(decide(programme("daybreak_red", []))) == ["deny", ["program_denied"]]
	gist(decide(programme("daybreak_red", ["red-team"]))) == allowed
	lower := object.union(programme("daybreak_red", ["red-team"]), {"subject": {"properties": {"tiers": {"cyber": 2}}}})
	gist(decide(asking("plain", lower))) == ["deny", ["program_denied"]]
}

test_a_programme_that_is_not_listed if {
	gist(decide(programme("other", ["red-team"]))) == ["deny", ["program_denied"]]
	gist(decide(programme("daybreak_blue", ["red-team"]))) == ["deny", ["program_denied"]]
}
