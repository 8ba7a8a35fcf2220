package sluicegate_test

test_capture_goes_by_stage if {
	decide(base).capture == "sealed_request"
	decide(asking("plain", base)).capture == "digest"
}

test_a_high_class_is_sealed if {
	decide_in(base, {"models": {"guarded": {"classes": {"cyber": 4}}}}).capture == "sealed"
	decide_in(base, {"models": {"guarded": {"classes": {"cyber": 3}}}}).capture == "sealed_request"
}

test_a_stage_that_says_nothing_is_sealed if {
	decide(asking("tested", subject({"roles": ["red-team"]}))).capture == "sealed"
}

test_review_goes_by_class if {
	decide(base).review == true
	decide_in(base, {"models": {"guarded": {"classes": {"cyber": 2}}}}).review == false
	decide(asking("plain", base)).review == false
}

test_a_denial_is_not_reviewed_for_its_class if {
	decide(subject({"status": "suspended"})).review == false
	decide(credential({"bound": "none"})).review == true
}
