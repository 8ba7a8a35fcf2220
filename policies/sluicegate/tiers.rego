# The level a subject holds in each domain, against the level a model needs.
package sluicegate

# The subject's level in the domains that the model asks for. Release, requirement and limits all
# compare with it, so it is worked out once.
levels := {domain: attained(domain) | some domain, _ in asked.requires.tiers}

level_in(domain) := known if {
	known := levels[domain]
} else := attained(domain)

# The highest level that his grant, his organisation's cap and his vetting all support, but never
# under the open floor of tiers.yaml. Mostly it is the one that was granted: that is tried first, at
# the place where a list without gaps has it.
attained(domain) := grant if {
	grant := input.subject.properties.tiers[domain]
	grant <= input.subject.properties.organisation.tiers[domain]
	tier := data.tiers[domain]
	grant >= tier.open_evaluation
	step := tier.levels[grant]
	step.level == grant
	not unsupported(step)
} else := max(supported | {0, object.get(tier, "open_evaluation", 0)}) if {
	tier := data.tiers[domain]
	supported := {step.level |
		some step in tier.levels
		step.level <= input.subject.properties.tiers[domain]
		step.level <= input.subject.properties.organisation.tiers[domain]
		not unsupported(step)
	}
} else := 0

unsupported(step) if {
	some kind, least in step.vetting
	not proven(kind, least)
}

# What data.tiers says of the levels that a model needs, by model.
needed_steps := {model.id: steps |
	some model in candidates
	steps := [step |
		some domain, needed in model.requires.tiers
		some step in data.tiers[domain].levels
		step.level == needed
	]
}

finding contains {
	"model": model.id,
	"code": "tier_insufficient",
	"rule": "tiers.insufficient",
	"effect": "deny",
	"message": sprintf("needs %s %d, has %d", [domain, needed, held]),
	"remedy": tier_remedy(domain, needed),
} if {
	lacking
	some model in candidates
	some domain, needed in model.requires.tiers
	held := level_in(domain)
	held < needed
}

# Where people have granted enough, the vetting is what is missing.
tier_remedy(domain, needed) := sprintf("Renew your vetting: %s.", [concat(", ", sort(lapsed))]) if {
	input.subject.properties.tiers[domain] >= needed
	input.subject.properties.organisation.tiers[domain] >= needed
	some step in data.tiers[domain].levels
	step.level == needed
	lapsed := unproven(step.vetting)
} else := sprintf("Ask your organisation's administrator for %s tier %d.", [domain, needed])
