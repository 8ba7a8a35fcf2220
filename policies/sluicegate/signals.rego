# Budgets that are spent, and scores that call for a person.
package sluicegate

finding contains {
	"code": "budget_spent",
	"rule": "signals.budget",
	"effect": "deny",
	"message": sprintf("the budget %s is spent", [name]),
	"remedy": "Ask your organisation's administrator to raise it.",
} if {
	some name, state in input.context.budgets
	state == "spent"
}

# Which signal, and how far over, would help to tune against it.
finding contains {
	"code": "signal_threshold",
	"rule": "signals.threshold",
	"effect": "deny",
	"message": "held back for review by a person",
	"remedy": "Write to the reviewers; they can release it.",
} if {
	some name, score in input.context.signals
	score >= data.signals[name].deny
}

# A function, as every denial and many an allowed call ask it of `input.context.signals`: the
# engine takes longer over a rule.
flagged(scores) if {
	some name, score in scores
	score >= data.signals[name].review
} else := false
