package sluicegate_test

# Whether the base subject is let in to `plain`, if its stage admits so.
admitted_by(admits, facts) if {
	decide_in(asking("plain", facts), {"stages": {"general": {"admits": admits}}}).effect == "allow"
}

test_an_empty_alternative_admits_everyone_and_an_empty_list_nobody if {
	admitted_by([{}], base)
	not admitted_by([], base)
}

test_each_condition_is_met_or_not if {
	admitted_by([{"organisations": ["o-0", "o-1"]}], base)
	not admitted_by([{"organisations": ["o-0"]}], base)
	admitted_by([{"countries": ["DE"]}], base)
	not admitted_by([{"countries": ["FR"]}], base)
	admitted_by([{"min_tier": {"cyber": 3}}], base)
	not admitted_by([{"min_tier": {"cyber": 4}}], base)
	not admitted_by([{"min_tier": {"cyber": 3, "bio": 1}}], base)
	admitted_by([{"roles": ["a", "b"]}], subject({"roles": ["b", "c"]}))
	not admitted_by([{"roles": ["a"]}], subject({"roles": ["b", "c"]}))
	not admitted_by([{"roles": []}], subject({"roles": ["b"]}))
}

test_all_that_is_named_must_hold if {
	not admitted_by([{"organisations": ["o-1"], "countries": ["FR"]}], base)
	admitted_by([{"organisations": ["o-1"], "countries": ["DE"]}], base)
}

test_one_alternative_is_enough if {
	admitted_by([{"countries": ["FR"]}, {"organisations": ["o-1"]}], base)
}

test_a_misspelt_condition_admits_nobody if {
	not admitted_by([{"organisation": ["o-1"]}], base)
	not admitted_by([{"organisations": ["o-1"], "min_tiers": {"cyber": 1}}], base)
}
