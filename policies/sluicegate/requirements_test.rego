package sluicegate_test

test_every_licence_is_needed if {
	gist(decide(organisation({"licences": ["other"]}))) == ["deny", ["licence_missing"]]
	two := {"models": {"guarded": {"requires": {"licences": ["key", "second"]}}}}
	decide_in(base, two).reasons[0].message == "your organisation lacks the licence second"
}

test_every_agreement_is_needed if {
	decision := decide(organisation({"agreements": []}))
	gist(decision) == ["deny", ["agreement_missing"]]
	decision.reasons[0].message == "your organisation has not signed terms"
}

test_one_retention_mode_is_enough if {
	gist(decide(organisation({"retention": "long"}))) == allowed
	decision := decide(organisation({"retention": "zero"}))
	gist(decision) == ["deny", ["retention_unsuitable"]]
	decision.reasons[0].remedy == "It must be one of: long, standard."
}

test_an_empty_list_asks_for_nothing if {
	none := {"models": {"guarded": {"requires": {"licences": [], "agreements": [], "retention": [], "networks": [], "purposes": []}}}}
	facts := where({
		"subject": {"properties": {"purposes": [], "organisation": {"licences": [], "agreements": [], "retention": "zero"}}},
		"context": {"network": {"labels": []}},
	})
	gist(decide_in(facts, none)) == allowed
	count(codes(decide(facts))) == 5
}

test_a_model_without_requirements_asks_for_nothing if {
	facts := where({
		"subject": {"properties": {"tiers": {"cyber": 0}, "vetting": [], "purposes": [], "organisation": {"licences": [], "agreements": [], "retention": "zero"}}},
		"context": {"network": {"labels": []}},
	})
	gist(decide(asking("plain", facts))) == allowed
}
