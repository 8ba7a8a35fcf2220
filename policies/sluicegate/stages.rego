# Release stages: whether a model has been let out to this subject.
package sluicegate

admitted(model) if {
	admits(model.release.admits)
} else if {
	wave_admits(model)
}

# Asked for only where something is lacking: otherwise there is none.
unadmitted := [model |
	some model in candidates
	not admitted(model)
]

finding contains {
	"model": model.id,
	"code": "model_retired",
	"rule": "stages.retired",
	"effect": "deny",
	"message": "this model is retired",
	"remedy": successor(model),
} if {
	some model in candidates
	model.release.retired == true
}

# Only a model that this subject may know of is named.
successor(model) := sprintf("Call %s.", [model.fallback]) if {
	visible(released(data.models[model.fallback]))
} else := "List the models to see which ones you may call."

finding contains {
	"model": model.id,
	"code": "wave_not_open",
	"rule": "stages.wave_not_open",
	"effect": "deny",
	"message": "not open to you yet",
	"remedy": wave_remedy(data.waves[model.wave]),
} if {
	lacking
	some model in unadmitted
	wave_awaited(model)
}

finding contains {
	"model": model.id,
	"code": "stage_not_admitted",
	"rule": "stages.not_admitted",
	"effect": "deny",
	"message": "not released to you",
	"remedy": "Ask your organisation's administrator to join this release.",
} if {
	lacking
	some model in unadmitted
	not model.release.retired == true
	not wave_awaited(model)
}

# A second person looks at what the stage holds to be weighty.
finding contains {
	"model": model.id,
	"code": "output_needs_approval",
	"rule": "stages.output_approval",
	"effect": "require_approval",
	"message": sprintf("more than %d output tokens need approval", [most]),
	"remedy": "Have the call approved, or ask for fewer output tokens.",
} if {
	input.action.name == "model.generate"
	some model in candidates
	most := model.release.approval.output_tokens_over
	wanted_output(model) > most
}

# A body that names no bound may use the model's.
wanted_output(model) := input.action.properties.max_output_tokens if {
	input.action.properties.max_output_tokens > 0
} else := object.get(model, "max_output_tokens", 128000)

finding contains {
	"model": model.id,
	"code": "tools_need_approval",
	"rule": "stages.tools_approval",
	"effect": "require_approval",
	"message": sprintf("tools of kind %s need approval", [kind]),
	"remedy": "Have the call approved, or leave these tools out.",
} if {
	some kind in input.action.properties.tool_kinds
	some model in candidates
	kind in model.release.approval.tool_kinds
}
