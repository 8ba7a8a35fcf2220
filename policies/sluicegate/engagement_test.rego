package sluicegate_test

engaged(change) := subject({"engagement": object.union(
	{
		"id": "e-1",
		"status": "active",
		"starts_at": "2026-06-01T12:00:00Z",
		"ends_at": "2026-06-01T12:00:01Z",
		"techniques": [],
	},
	change,
)})

test_an_active_engagement_in_its_window if {
	gist(decide(engaged({}))) == allowed
}

test_an_engagement_that_is_not_active if {
	gist(decide(engaged({"status": "suspended"}))) == ["deny", ["engagement_inactive"]]
	gist(decide(engaged({"status": "closed"}))) == ["deny", ["engagement_inactive"]]
}

test_an_engagement_starts_and_ends_at_its_second if {
	early := decide(engaged({"starts_at": "2026-06-01T12:00:01Z"}))
	gist(early) == ["deny", ["engagement_window"]]
	early.reasons[0].remedy == "It runs from 2026-06-01T12:00:01Z to 2026-06-01T12:00:01Z."
	gist(decide(engaged({"ends_at": "2026-06-01T12:00:00Z"}))) == ["deny", ["engagement_window"]]
}

test_a_level_may_ask_for_an_engagement if {
	levels := [object.union(step, {"engagement_required": step.level == 3}) | some step in world.tiers.cyber.levels]
	change := {"tiers": {"cyber": {"levels": levels}}}
	gist(decide_in(base, change)) == ["deny", ["engagement_required"]]
	gist(decide_in(engaged({}), change)) == allowed
	gist(decide_in(asking("plain", base), change)) == allowed
}

test_targets_outside_the_engagement if {
	astray := context({"targets": {"named": 3, "out_of_scope": 1}})
	gist(decide(astray)) == ["deny", ["target_out_of_scope"]]
	gist(decide(asking("plain", astray))) == allowed
	gist(decide(context({"targets": {"named": 3, "out_of_scope": 0}}))) == allowed
	lower := {"models": {"guarded": {"classes": {"cyber": 2}}}}
	gist(decide_in(astray, lower)) == allowed
}
