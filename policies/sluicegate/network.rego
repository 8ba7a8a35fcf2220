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
	some country in model.requires.countries_denied
	country in populations
	not export_licensed(model)
}

populations contains input.context.network.country

populations contains input.subject.properties.residence

populations contains country if some country in input.subject.properties.nationalities

# A subject of no recorded nationality is of an unknown one.
populations contains "ZZ" if count(input.subject.properties.nationalities) == 0

export_licensed(_) if "export:listed" in input.subject.properties.organisation.licences

export_licensed(model) if {
	sprintf("export:%s", [lower(model.id)]) in input.subject.properties.organisation.licences
}
