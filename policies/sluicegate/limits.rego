# Which limits of a book (data.limits) an admitted call to a model draws from.
package sluicegate

# Of the entries for the model's stage, the one with the highest level that the subject reaches in
# the domains that the model asks for.
limits(book, model) := fixed if {
	fixed := book.actions[input.action.name]
} else := highest[0] if {
	entries := book.stages[model.stage]
	held := max({0} | {level_in(domain) | some domain, _ in model.requires.tiers})
	from := max([entry.from_level | some entry in entries; entry.from_level <= held])
	highest := [entry.limits | some entry in entries; entry.from_level == from]
} else := book.otherwise
