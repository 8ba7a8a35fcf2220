# How much of a call the record keeps, and whether a person looks at it.
package sluicegate

capture(model) := "sealed" if {
	some domain, class in model.classes
	class >= data.tiers[domain].classes.sealed_from
} else := kept if {
	kept := model.release.capture
} else := "sealed"

review(model) if {
	some domain, class in model.classes
	class >= data.tiers[domain].classes.review_from
} else := flagged(input.context.signals)
