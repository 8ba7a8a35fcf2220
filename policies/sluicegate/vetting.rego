# What the subject's vetting records prove now.
package sluicegate

# A current record of the kind says at least this level.
proven(kind, least) if {
	some record in input.subject.properties.vetting
	record.kind == kind
	record.level >= least
	input.context.time >= record.verified_at
	not ended(record)
}

# A record without an expiry does not end.
ended(record) if {
	record.expires_at != null
	input.context.time >= record.expires_at
}

# Of the kinds and levels required ({kind: level}), the kinds that no current record proves.
unproven(required) := {kind |
	some kind, least in required
	not proven(kind, least)
}

finding contains {
	"model": model.id,
	"code": "vetting_required",
	"rule": "vetting.required",
	"effect": "deny",
	"message": sprintf("needs %s vetting %d", [kind, least]),
	"remedy": "Ask your organisation's administrator to have it verified.",
} if {
	some model in candidates
	some kind, least in model.requires.vetting
	not proven(kind, least)
}
