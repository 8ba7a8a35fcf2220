# Standing: a call needs an active member of an active organisation.
package sluicegate

finding contains {
	"code": "member_inactive",
	"rule": "organisation.member_inactive",
	"effect": "deny",
	"message": "your membership is not active",
	"remedy": "Ask your organisation's administrator.",
} if {
	input.subject.properties.status != "active"
}

finding contains {
	"code": "organisation_inactive",
	"rule": "organisation.inactive",
	"effect": "deny",
	"message": "your organisation is not active",
	"remedy": "Ask your organisation's administrator.",
} if {
	input.subject.properties.organisation.status != "active"
}
