package sluicegate_test

vetted(kind, level, verified_at, expires_at) := {"kind": kind, "level": level, "verified_at": verified_at, "expires_at": expires_at}

# The level of a subject who holds just this identity record, where identity 2 supports level 2.
identity_level(record) := level if {
	level := held_level(subject({"vetting": [record]}))
}

test_a_record_counts_from_its_verification_until_its_expiry if {
	identity_level(vetted("identity", 2, "2026-06-01T12:00:00Z", "2026-06-01T12:00:01Z")) == 2
	identity_level(vetted("identity", 2, "2026-06-01T12:00:01Z", null)) == 1
	identity_level(vetted("identity", 2, "2026-01-01T00:00:00Z", "2026-06-01T12:00:00Z")) == 1
}

test_a_record_without_an_expiry_counts if {
	identity_level(vetted("identity", 2, "2026-01-01T00:00:00Z", null)) == 2
	identity_level({"kind": "identity", "level": 2, "verified_at": "2026-01-01T00:00:00Z"}) == 2
}

test_a_record_counts_for_its_kind_and_level_only if {
	identity_level(vetted("identity", 1, "2026-01-01T00:00:00Z", null)) == 1
	identity_level(vetted("organisation", 2, "2026-01-01T00:00:00Z", null)) == 1
}

test_the_best_of_several_records_counts if {
	facts := subject({"vetting": [
		vetted("identity", 3, "2026-01-01T00:00:00Z", "2026-02-01T00:00:00Z"),
		vetted("identity", 2, "2026-01-01T00:00:00Z", null),
		vetted("identity", 1, "2026-01-01T00:00:00Z", null),
	]})
	held_level(facts) == 2
}

test_vetting_that_the_model_itself_needs if {
	decision := decide_in(base, {"models": {"guarded": {"requires": {"vetting": {"safety": 3, "identity": 3, "lab": 1}}}}})
	gist(decision) == ["deny", ["vetting_required", "vetting_required"]]
	[reason.message | some reason in decision.reasons] == ["needs lab vetting 1", "needs safety vetting 3"]
}
