# Who is meant by an `admits` list of the data (stages, waves, programmes).
package sluicegate

# One alternative must hold; in it, everything that is named.
admits(alternatives) if {
	some who in alternatives
	not excluded(who)
}

excluded(who) if {
	who.organisations
	not input.subject.properties.organisation.id in who.organisations
}

excluded(who) if {
	who.roles
	every role in who.roles {
		not role in input.subject.properties.roles
	}
}

excluded(who) if {
	who.countries
	not input.subject.properties.residence in who.countries
}

excluded(who) if {
	some domain, level in who.min_tier
	object.get(levels, domain, 0) < level
}

# A misspelt condition admits nobody rather than everybody.
excluded(who) if {
	some name, _ in who
	not name in {"organisations", "roles", "countries", "min_tier"}
}
