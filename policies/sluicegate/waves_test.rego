package sluicegate_test

# The base subject is in the organisation that the wave admits; red-team alone is let in by stage.
spring(time) := asking("tested", context({"time": time}))

test_a_wave_opens_at_its_second if {
	before := decide(spring("2026-07-01T08:59:59Z"))
	gist(before) == ["deny", ["wave_not_open"]]
	before.reasons[0].remedy == "Call plain instead. Call again after 2026-07-01T09:00:00Z."
	gist(decide(spring("2026-07-01T09:00:00Z"))) == allowed
}

test_a_wave_closes_at_its_second if {
	gist(decide(spring("2026-08-01T08:59:59Z"))) == allowed
	gist(decide(spring("2026-08-01T09:00:00Z"))) == ["deny", ["stage_not_admitted"]]
}

test_a_wave_without_an_end_stays_open if {
	change := {"waves": {"spring": {"closes_at": "9999-01-01T00:00:00Z"}}}
	gist(decide_in(spring("2030-01-01T00:00:00Z"), change)) == allowed
	endless := {"waves": {"endless": {"opens_at": "2026-07-01T09:00:00Z", "admits": [{}]}}, "models": {"tested": {"wave": "endless"}}}
	gist(decide_in(spring("2030-01-01T00:00:00Z"), endless)) == allowed
}

test_an_unsure_clock_opens_no_wave if {
	facts := object.union(spring("2026-07-01T09:00:00Z"), {"context": {"clock": "unsure"}})
	decision := decide(facts)
	gist(decision) == ["deny", ["wave_not_open"]]
	decision.reasons[0].remedy == "Call plain instead. The gateway's clock is being checked; call again in a minute."
}

test_an_unsure_clock_leaves_open_what_people_have_seen_open if {
	facts := object.union(spring("2026-07-01T09:00:00Z"), {"context": {"clock": "unsure"}})
	gist(decide_in(facts, {"waves": {"spring": {"opened": true}}})) == allowed
	decide_in(facts, {"waves": {"spring": {"opened": "yes"}}}).effect == "deny"
}

test_opened_does_not_open_early if {
	decide_in(spring("2026-07-01T08:59:59Z"), {"waves": {"spring": {"opened": true}}}).effect == "deny"
}

test_a_wave_is_nothing_to_those_it_does_not_admit if {
	facts := object.union(spring("2026-07-01T09:00:00Z"), {"subject": {"properties": {"organisation": {"id": "o-2"}}}})
	gist(decide(facts)) == ["deny", ["stage_not_admitted"]]
	early := object.union(facts, {"context": {"time": "2026-06-01T09:00:00Z"}})
	gist(decide(early)) == ["deny", ["stage_not_admitted"]]
}

test_a_wave_lifts_no_requirement if {
	change := {"models": {"tested": {"requires": {"licences": ["other"]}}}}
	gist(decide_in(spring("2026-07-01T09:00:00Z"), change)) == ["deny", ["licence_missing"]]
}

test_an_odd_spelling_keeps_a_wave_shut if {
	decide_in(spring("2026-07-01T09:00:00Z"), {"waves": {"spring": {"opens_at": "2026-07-01 09:00:00"}}}).effect == "deny"
	decide_in(spring("2026-07-01T09:00:00Z"), {"waves": {"spring": {"opens_at": 20260701}}}).effect == "deny"
	decide_in(spring("2026-07-01T09:00:00Z"), {"waves": {"spring": {"closes_at": "2026-08-01"}}}).effect == "deny"
}

test_a_wave_that_is_not_in_the_data_opens_nothing if {
	gist(decide_in(spring("2026-07-01T09:00:00Z"), {"models": {"tested": {"wave": "autumn"}}})) == ["deny", ["stage_not_admitted"]]
}
