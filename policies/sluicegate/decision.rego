# The decision: what all findings together come to.
#
# Every concern adds to the set `finding`: {code, rule, effect, message, remedy}, and `model` where
# it is about one model. The strictest effect wins; no finding allows. The answer is always a
# complete document (gateway.core.decision).
#
# These rules run for every call and re-check. What costs the embedded engine most, dearest first: a
# rule that is evaluated, a reference to `data`, a call of a function. So a condition on the input
# alone stands first in a rule, and the allowed call meets no rule that only a denied one needs.
package sluicegate

# What the subject may not know of is not judged. A call is allowed where no finding is about it: a
# finding that names another model is not. Only then are findings weighed against one another.
decision := not_found if {
	not visible(asked)
} else := dated({
	"effect": "allow",
	"reasons": [],
	"limits": limits(data.limits, asked),
	"capture": capture(asked),
	"review": review(asked),
}) if {
	every found in finding {
		found.model != asked.id
	}
} else := dated({
	"effect": "downgrade",
	"model": substitute.id,
	"reasons": array.concat([downgraded], reasons),
	"limits": limits(data.limits, substitute),
	"capture": capture(substitute),
	"review": review(substitute),
}) if {
	"downgrade" in input.subject.properties.credential.scopes
	substitute
} else := dated({
	"effect": effect,
	"reasons": reasons_with_substitute,
	"limits": [], # a call that is not admitted draws from none
	"capture": capture(asked),
	"review": reviewed,
})

# A rule may only shorten how long a decision holds: here, until the sign-in is too old.
dated(answer) := object.union(answer, {"valid_until": min(pending)}) if {
	input.subject.properties.credential.kind == "jwt"
	pending := {deadline | some deadline in sign_in_deadlines(asked); ahead(deadline)}
	count(pending) > 0
} else := answer

findings := {found |
	some found in finding
	object.get(found, "model", asked.id) == asked.id
}

effects := {found.effect | some found in findings}

# The strictest one; an effect that is none of these denies too.
effect := "step_up" if {
	effects == {"step_up"}
} else := "require_approval" if {
	count(effects - {"step_up", "require_approval"}) == 0
} else := "deny"

# A denial is looked at only where a signal asks for it.
reviewed := flagged(input.context.signals) if {
	effect == "deny"
} else := review(asked)

# Most important first: the first reason is the one that the caller reads.
reasons := [entry[2] |
	some entry in sort([[object.get(precedence, found.code, 99), found.code, reason] |
		some found in findings
		reason := object.remove(found, {"effect", "model"})
	])
]

precedence := {
	"member_inactive": 1,
	"organisation_inactive": 2,
	"credential_expired": 3,
	"model_retired": 4,
	"tier_insufficient": 5,
	"vetting_required": 6,
	"wave_not_open": 7,
	"stage_not_admitted": 8,
	"licence_missing": 9,
	"agreement_missing": 10,
	"retention_unsuitable": 11,
	"purpose_missing": 12,
	"country_denied": 13,
	"network_denied": 14,
	"engagement_required": 15,
	"engagement_inactive": 16,
	"engagement_window": 17,
	"target_out_of_scope": 18,
	"credential_scope": 19,
	"program_denied": 20,
	"tool_kind_denied": 21,
	"remote_fetch_denied": 22,
	"store_denied": 23,
	"background_denied": 24,
	"budget_spent": 25,
	"signal_threshold": 26,
	"purpose_needs_approval": 40,
	"tools_need_approval": 41,
	"output_needs_approval": 42,
	"bound_credential_required": 60,
	"authentication_method": 61,
	"authentication_age": 62,
}

# The model that could serve this call: nothing but a level or a release is lacking for the one that
# was asked for, and the same rules find nothing against its fallback. Embeddings of two models do
# not compare, and a list names models as they are, so neither is substituted.
substitute := model if {
	effect == "deny"
	input.action.name in {"model.generate", "model.count_tokens"}
	every found in findings {
		found.code in {"tier_insufficient", "stage_not_admitted", "wave_not_open"}
	}
	some model in candidates
	model.id == asked.fallback
	visible(model)
	input.action.properties.wire in model.wires
	every found in finding {
		found.model != model.id
	}
}

downgraded := {
	"code": "downgraded",
	"rule": "decision.downgraded",
	"message": sprintf("%s serves this call instead", [substitute.id]),
	"remedy": reasons[0].remedy,
}

# Without the opt-in, the first remedy names the substitute.
reasons_with_substitute := array.concat([first], array.slice(reasons, 1, count(reasons))) if {
	substitute
	remedy := sprintf("Call %s instead. %s", [substitute.id, reasons[0].remedy])
	first := object.union(reasons[0], {"remedy": remedy})
} else := reasons
