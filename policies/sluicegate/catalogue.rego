# Which models are judged, and whether this subject may know of them.
package sluicegate

# A catalogue entry as the rules see it: `release` is what the data says of its stage, fetched once.
released(entry) := object.union(entry, {"release": stage}) if {
	stage := data.stages[entry.stage]
} else := entry

# An id that the catalogue does not hold is read as an embargoed model without an id: the two take
# the same steps to the same answer.
asked := released(object.get(data.models, input.resource.id, {"stage": "embargoed"}))

# What every rule about a model ranges over: the one that is asked for and, where the subject lacks
# a level or a release for it, the one that might stand in.
candidates := [asked, fallback] if {
	lacking
	fallback := released(data.models[asked.fallback])
} else := [asked]

# A release or a level for the model that is asked for. Where nothing is lacking, the rules on
# releases and levels have nothing to find, and look no further.
lacking if {
	not admitted(asked)
} else if {
	some domain, needed in asked.requires.tiers
	levels[domain] < needed
}

visible(model) if {
	shown(model)
	model.id
}

# A stage that is not in the data shows its models to nobody.
shown(model) if {
	stage := model.release
	not stage.visible_to
} else if {
	some role in model.release.visible_to
	role in input.subject.properties.roles
} else if {
	wave_admits(model)
}

# The whole answer for a model that this subject may not know of, whether it exists or not.
not_found := {
	"effect": "deny",
	"reasons": [{
		"code": "model_not_found",
		"rule": "catalogue.not_found",
		"message": "no such model",
		"remedy": "List the models to see which ones you may call.",
	}],
	"limits": [],
	"capture": "metadata",
	"review": false,
}
