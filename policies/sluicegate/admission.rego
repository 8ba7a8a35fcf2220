# Who is meant by an `admits` list of the data (stages, waves, programmes).
package sluicegate

# One alternative must hold, so there must be one. That none does is what is asked: `every` stops at
# the first that holds, where `some` would go through them all.
admits(alternatives) if {
	alternatives[0]
	not excluded(alternatives)
}

# In an alternative, everything that is named must hold.
excluded(alternatives) if {
	every who in alternatives {
		some condition, wanted in who
		not meets(condition, wanted)
	}
}

# A misspelt condition is met by nobody.
meets("organisations", wanted) if input.subject.properties.organisation.id in wanted

meets("roles", wanted) if {
	some role in wanted
	role in input.subject.properties.roles
}

meets("countries", wanted) if input.subject.properties.residence in wanted

meets("min_tier", wanted) if {
	every domain, least in wanted {
		level_in(domain) >= least
	}
}
