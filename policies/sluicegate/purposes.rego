# Declared purposes, against those a model is released for.
package sluicegate

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
	wanted != []
	not fits(wanted)
}

fits(wanted) if {
	some purpose in input.subject.properties.purposes
	purpose in wanted
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
	wanted := model.requires.purposes
	not carried(wanted)
	fits(wanted)
}

# A purpose fits for which nobody else is needed.
carried(wanted) if {
	known := data.purposes
	some purpose in input.subject.properties.purposes
	purpose in wanted
	known[purpose]
	not known[purpose].approval == true
}
