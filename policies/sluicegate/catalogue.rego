# Which models are judged, and whether this subject may know of them.
package sluicegate

# An id that the catalogue does not hold is read as an embargoed model without an id: the two take
# the same steps to the same answer.
asked := object.get(data.models, input.resource.id, {"stage": "embargoed"})

# What every rule about a model ranges over: the one that is asked for and, where the subject lacks
# a level or a release for it, the one that might stand in.
candidates contains asked

candidates contains data.models[asked.fallback] if lacking(asked)

lacking(model) if count(short(model)) > 0

lacking(model) if not admitted(model)

visible(model) if {
	shown(model)
	model.id
}

# A stage that is not in the data shows its models to nobody.
shown(model) if {
	stage := data.stages[model.stage]
	not stage.visible_to
}

shown(model) if {
	some role in data.stages[model.stage].visible_to
	role in input.subject.properties.roles
}

shown(model) if wave_admits(model)

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
