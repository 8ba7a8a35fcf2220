package sluicegate_test

test_one_fitting_purpose_is_enough if {
	gist(decide(subject({"purposes": ["tourism", "defence"]}))) == allowed
}

test_no_fitting_purpose if {
	decision := decide(subject({"purposes": ["tourism"]}))
	gist(decision) == ["deny", ["purpose_missing"]]
	decision.reasons[0].remedy == "Have one registered: defence, offence."
	codes(decide(subject({"purposes": []}))) == ["purpose_missing"]
}

test_a_purpose_for_which_a_second_person_is_needed if {
	gist(decide(subject({"purposes": ["offence"]}))) == ["require_approval", ["purpose_needs_approval"]]
	gist(decide(subject({"purposes": ["offence", "defence"]}))) == allowed
}

test_a_purpose_that_the_data_does_not_know_needs_a_second_person if {
	change := {"models": {"guarded": {"requires": {"purposes": ["mystery"]}}}}
	decide_in(subject({"purposes": ["mystery"]}), change).effect == "require_approval"
}
