# The level a subject holds in each domain, against the level a model needs.
package sluicegate

# The subject's level by domain: the highest step that his grant, his organisation's cap and his
# vetting all support, but never under the open floor of tiers.yaml.
levels[domain] := level if {
	some domain, tier in data.tiers
	most := granted(domain)
	supported := {step.level |
		some step in tier.levels
		step.level <= most
		not unsupported(step)
	}
	level := max(supported | {0, object.get(tier, "open_evaluation", 0)})
}

unsupported(step) if {
	some kind, level in step.vetting
	not proven(kind, level)
}

# What people have granted, whatever the vetting says.
granted(domain) := min({
	object.get(input.subject.properties.tiers, domain, 0),
	object.get(input.subject.properties.organisation.tiers, domain, 0),
})

# The domains in which the subject's level does not reach.
short(model) := {domain |
	some domain, needed in model.requires.tiers
	object.get(levels, domain, 0) < needed
}

# What data.tiers says of the levels that a model needs.
needed_steps(model) := [step |
	some domain, needed in model.requires.tiers
	some step in data.tiers[domain].levels
	step.level == needed
]

finding contains {
	"model": model.id,
	"code": "tier_insufficient",
	"rule": "tiers.insufficient",
	"effect": "deny",
	"message": sprintf("needs %s %d, has %d", [domain, needed, object.get(levels, domain, 0)]),
	"remedy": tier_remedy(domain, needed),
} if {
	some model in candidates
	some domain in short(model)
	needed := model.requires.tiers[domain]
}

tier_remedy(domain, needed) := sprintf("Renew your vetting: %s.", [concat(", ", sort(lapsed))]) if {
	granted(domain) >= needed
	some step in data.tiers[domain].levels
	step.level == needed
	lapsed := unproven(step.vetting)
} else := sprintf("Ask your organisation's administrator for %s tier %d.", [domain, needed])
