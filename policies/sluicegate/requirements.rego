# What the organisation must have signed, hold and keep before it may call a model.
package sluicegate

finding contains {
	"model": model.id,
	"code": "licence_missing",
	"rule": "requirements.licence",
	"effect": "deny",
	"message": sprintf("your organisation lacks the licence %s", [licence]),
	"remedy": "Ask your organisation's administrator to obtain it.",
} if {
	some model in candidates
	some licence in model.requires.licences
	not licence in input.subject.properties.organisation.licences
}

finding contains {
	"model": model.id,
	"code": "agreement_missing",
	"rule": "requirements.agreement",
	"effect": "deny",
	"message": sprintf("your organisation has not signed %s", [agreement]),
	"remedy": "Ask your organisation's administrator to sign it.",
} if {
	some model in candidates
	some agreement in model.requires.agreements
	not agreement in input.subject.properties.organisation.agreements
}

finding contains {
	"model": model.id,
	"code": "retention_unsuitable",
	"rule": "requirements.retention",
	"effect": "deny",
	"message": "your organisation's retention mode does not suit",
	"remedy": sprintf("It must be one of: %s.", [concat(", ", sort(modes))]),
} if {
	some model in candidates
	modes := model.requires.retention
	count(modes) > 0
	not input.subject.properties.organisation.retention in modes
}
