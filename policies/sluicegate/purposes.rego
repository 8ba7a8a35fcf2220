# Declared purposes, against those a model is released for.
package sluicegate

fitting(model) := {purpose |
	some purpose in model.requires.purposes
	purpose in input.subject.properties.purposes
}

finding contains {
	"model": model.id,
	"code": "purpose_missing",
	"rule": "purposes.missing",
	"effect": "deny",
	"message": "none of your purposes fits this model",
	"remedy": sprintf("Have one registered: %s.", [concat(", ", sort(wanted))]),
} if {
	some model in candidates
	wanted := model.requires.purposes
	count(wanted) > 0
	count(fitting(model)) == 0
}

# Only purposes that need a second person fit, or such as the data does not know.
finding contains {
	"model": model.id,
	"code": "purpose_needs_approval",
	"rule": "purposes.approval",
	"effect": "require_approval",
	"message": "your purpose needs a second person",
	"remedy": "Have the call approved.",
} if {
	some model in candidates
	count(fitting(model)) > 0
	every purpose in fitting(model) {
		not carries(purpose)
	}
}

carries(purpose) if {
	data.purposes[purpose]
	not data.purposes[purpose].approval == true
}
