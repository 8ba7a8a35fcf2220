# Where a call comes from, and the countries a model must not reach.
package sluicegate

finding contains {
	"model": model.id,
	"code": "network_denied",
	"rule": "network.not_listed",
	"effect": "deny",
	"message": "not callable from this network",
	"remedy": "Call from a network that is listed for this model.",
} if {
	some model in candidates
	listed := model.requires.networks
	count(listed) > 0
	every label in listed {
		not label in input.context.network.labels
	}
}

finding contains {
	"model": model.id,
	"code": "country_denied",
	"rule": "network.country",
	"effect": "deny",
	"message": "not exported to your country or nationality",
	"remedy": "Your organisation needs an export licence for this model.",
} if {
	some model in candidates
	reached_from(model.requires.countries_denied)
	not export_licensed(model)
}

# The network, the residence and every nationality count.
reached_from(countries) if {
	input.context.network.country in countries
} else if {
	input.subject.properties.residence in countries
} else if {
	some country in input.subject.properties.nationalities
	country in countries
} else if {
	# A subject of no recorded nationality is of an unknown one.
	input.subject.properties.nationalities == []
	"ZZ" in countries
}

export_licensed(_) if "export:listed" in input.subject.properties.organisation.licences

export_licensed(model) if {
	sprintf("export:%s", [lower(model.id)]) in input.subject.properties.organisation.licences
}
