# What the subject's vetting records prove now.
package sluicegate

current_vetting := [record |
	some record in input.subject.properties.vetting
	reached(record.verified_at)
	unexpired(object.get(record, "expires_at", null))
]

proven(kind, level) if {
	some record in current_vetting
	record.kind == kind
	record.level >= level
}

# Of the kinds and levels required ({kind: level}), the kinds that no current record proves.
unproven(required) := {kind |
	some kind, level in required
	not proven(kind, level)
}

finding contains {
	"model": model.id,
	"code": "vetting_required",
	"rule": "vetting.required",
	"effect": "deny",
	"message": sprintf("needs %s vetting %d", [kind, model.requires.vetting[kind]]),
	"remedy": "Ask your organisation's administrator to have it verified.",
} if {
	some model in candidates
	some kind in unproven(object.get(model, ["requires", "vetting"], {}))
}
