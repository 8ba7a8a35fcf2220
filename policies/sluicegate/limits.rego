# Which limits an admitted call to a model draws from.
package sluicegate

limits(model) := fixed if {
	fixed := data.limits.actions[input.action.name]
} else := staged[0] if {
	staged := stage_limits(model)
	count(staged) > 0
} else := data.limits.otherwise

# Of the entries for its stage, the one with the highest level that the subject reaches.
stage_limits(model) := [entry.limits |
	reachable := [entry |
		some entry in data.limits.stages[model.stage]
		entry.from_level <= level_for(model)
	]
	some entry in reachable
	entry.from_level == max([other.from_level | some other in reachable])
]

# The subject's highest level in the domains that the model asks for.
level_for(model) := max({0} | {object.get(levels, domain, 0) | some domain, _ in model.requires.tiers})
