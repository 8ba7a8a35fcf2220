package sluicegate_test

test_a_spent_budget_denies if {
	decision := decide(context({"budgets": {"cyber": "spent", "total": "ok"}}))
	gist(decision) == ["deny", ["budget_spent"]]
	decision.reasons[0].message == "the budget cyber is spent"
	gist(decide(context({"budgets": {"cyber": "low", "total": "ok"}}))) == allowed
}

misuse(score) := asking("plain", context({"signals": {"misuse": score}}))

test_a_score_denies_from_its_threshold if {
	gist(decide(misuse(899))) == allowed
	decision := decide(misuse(900))
	gist(decision) == ["deny", ["signal_threshold"]]
	decision.review == true
}

test_a_denial_by_score_says_neither_signal_nor_score if {
	some reason in decide(misuse(900)).reasons
	not contains(reason.message, "misuse")
	not contains(reason.remedy, "misuse")
	reason == decide(misuse(1000)).reasons[0]
}

test_a_score_asks_for_review_from_its_threshold if {
	decide(misuse(499)).review == false
	decide(misuse(500)).review == true
}

test_a_score_that_the_data_does_not_know_changes_nothing if {
	decision := decide(asking("plain", context({"signals": {"unlisted": 1000}})))
	gist(decision) == allowed
	decision.review == false
}
