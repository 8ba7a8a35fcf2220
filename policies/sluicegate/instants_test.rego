package sluicegate_test

at(time) := {"context": {"time": time}}

test_reached_from_the_instant_on if {
	not data.sluicegate.reached("2026-06-01T12:00:00Z") with input as at("2026-06-01T11:59:59Z")
	data.sluicegate.reached("2026-06-01T12:00:00Z") with input as at("2026-06-01T12:00:00Z")
	data.sluicegate.reached("2026-06-01T12:00:00Z") with input as at("2026-06-01T12:00:01Z")
}

test_ahead_until_the_instant if {
	data.sluicegate.ahead("2026-06-01T12:00:00Z") with input as at("2026-06-01T11:59:59Z")
	not data.sluicegate.ahead("2026-06-01T12:00:00Z") with input as at("2026-06-01T12:00:00Z")
}

test_years_that_no_parser_reaches_are_compared_too if {
	data.sluicegate.ahead("9999-12-31T23:59:59Z") with input as at("2026-06-01T12:00:00Z")
	data.sluicegate.reached("0001-01-01T00:00:00Z") with input as at("2026-06-01T12:00:00Z")
}

test_only_one_spelling_is_canonical if {
	data.sluicegate.canonical("2026-06-01T12:00:00Z")
	every spelling in ["2026-06-01t12:00:00Z", "2026-06-01 12:00:00Z", "2026-06-01T12:00:00z", "2026-06-01T12:00:00.0Z", "2026-06-01T12:00:00+00:00", null, 20260601] {
		not data.sluicegate.canonical(spelling)
	}
}
