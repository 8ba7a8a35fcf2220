# Engagements: authorised work against named targets, in its window.
package sluicegate

finding contains {
	"model": model.id,
	"code": "engagement_required",
	"rule": "engagement.required",
	"effect": "deny",
	"message": "needs a named engagement",
	"remedy": "Use a credential that was issued for an engagement.",
} if {
	input.subject.properties.engagement == null
	some model in candidates
	some domain, needed in model.requires.tiers
	some step in data.tiers[domain].levels
	step.level == needed
	step.engagement_required == true
}

finding contains {
	"code": "engagement_inactive",
	"rule": "engagement.inactive",
	"effect": "deny",
	"message": "your engagement is not active",
	"remedy": "Ask the engagement's authoriser.",
} if {
	input.subject.properties.engagement.status != "active"
}

finding contains {
	"code": "engagement_window",
	"rule": "engagement.window",
	"effect": "deny",
	"message": "outside your engagement's dates",
	"remedy": sprintf("It runs from %s to %s.", [engagement.starts_at, engagement.ends_at]),
} if {
	engagement := input.subject.properties.engagement
	engagement != null
	not in_window(engagement)
}

in_window(engagement) if {
	reached(engagement.starts_at)
	ahead(engagement.ends_at)
}

finding contains {
	"model": model.id,
	"code": "target_out_of_scope",
	"rule": "engagement.targets",
	"effect": "deny",
	"message": "names a target outside your engagement",
	"remedy": "Keep to the targets your engagement names.",
} if {
	input.context.targets.out_of_scope > 0
	some model in candidates
	some domain, class in model.classes
	class >= data.tiers[domain].classes.targets_from
}
