package sluicegate_test

network(labels) := context({"network": {"labels": labels}})

test_one_listed_network_is_enough if {
	gist(decide(network(["home", "office"]))) == allowed
	gist(decide(network(["home"]))) == ["deny", ["network_denied"]]
	gist(decide(network([]))) == ["deny", ["network_denied"]]
}

test_each_population_can_be_denied if {
	gist(decide(context({"network": {"country": "AA"}}))) == ["deny", ["country_denied"]]
	gist(decide(subject({"residence": "AA"}))) == ["deny", ["country_denied"]]
	gist(decide(subject({"nationalities": ["DE", "AA"]}))) == ["deny", ["country_denied"]]
}

test_unknown_countries_are_denied_where_they_are_listed if {
	gist(decide(subject({"nationalities": []}))) == ["deny", ["country_denied"]]
	gist(decide(subject({"residence": "ZZ"}))) == ["deny", ["country_denied"]]
	gist(decide(asking("Team/Model-1", subject({"nationalities": [], "residence": "ZZ"})))) == allowed
}

test_other_countries_are_not_denied if {
	gist(decide(subject({"nationalities": ["FR"], "residence": "US"}))) == allowed
}

test_an_export_licence_lifts_it if {
	foreign := {"residence": "AA"}
	gist(decide(subject(object.union(foreign, {"organisation": {"licences": ["key", "export:guarded"]}})))) == allowed
	gist(decide(subject(object.union(foreign, {"organisation": {"licences": ["key", "export:listed"]}})))) == allowed
	decide(subject(object.union(foreign, {"organisation": {"licences": ["key", "export:plain"]}}))).effect == "deny"
}

test_an_export_licence_names_the_model_in_lower_case if {
	facts := subject({"residence": "AA", "organisation": {"licences": ["export:team/model-1"]}})
	gist(decide(asking("Team/Model-1", facts))) == allowed
}
