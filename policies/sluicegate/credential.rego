# The credential: is it alive, how far does it reach, how strongly does it speak for its holder.
#
# Scopes only narrow. Each family that occurs among them must cover the call:
#   wire:<wire>              these wires
#   model:<id>               these models (ids in lower case)
#   class:<domain>-<level>   in this domain, models up to this capability class
# Other labels narrow nothing; `downgrade` is an opt-in that decision.rego reads.
package sluicegate

finding contains {
	"code": "credential_expired",
	"rule": "credential.expired",
	"effect": "deny",
	"message": "this credential has expired",
	"remedy": "Use a new one.",
} if {
	not input.subject.properties.credential.expires_at == null
	not ahead(input.subject.properties.credential.expires_at)
}

finding contains {
	"model": model.id,
	"code": "credential_scope",
	"rule": "credential.scope",
	"effect": "deny",
	"message": "outside the scopes of this credential",
	"remedy": "Use a credential whose scopes cover this call.",
} if {
	input.subject.properties.credential.scopes != [] # the usual case, and cheaper to see
	strings.any_prefix_match(input.subject.properties.credential.scopes, ["wire:", "model:", "class:"])
	some model in candidates
	out_of_scope(model)
}

out_of_scope(model) if {
	wires := {scope | some scope in input.subject.properties.credential.scopes; startswith(scope, "wire:")}
	count(wires) > 0
	count(wires & wire_scopes(model)) == 0
}

out_of_scope(model) if {
	models := {scope | some scope in input.subject.properties.credential.scopes; startswith(scope, "model:")}
	count(models) > 0
	not sprintf("model:%s", [lower(model.id)]) in models
}

out_of_scope(model) if {
	some domain, class in model.classes
	some scope in input.subject.properties.credential.scopes
	startswith(scope, sprintf("class:%s-", [domain]))
	not scope in {sprintf("class:%s-%d", [domain, level]) | some level in numbers.range(class, 9)}
}

# A list call stands for every wire of the model.
wire_scopes(model) := all if {
	input.action.name == "model.list"
	all := {sprintf("wire:%s", [wire]) | some wire in model.wires}
} else := {sprintf("wire:%s", [input.action.properties.wire])}

finding contains {
	"model": model.id,
	"code": "bound_credential_required",
	"rule": "credential.bound",
	"effect": "step_up",
	"message": "needs a key-bound credential",
	"remedy": "Call with mTLS or DPoP.",
} if {
	input.subject.properties.credential.bound == "none"
	some model in candidates
	model.requires.bound_credential == true
}

finding contains {
	"model": model.id,
	"code": "authentication_method",
	"rule": "credential.method",
	"effect": "step_up",
	"message": sprintf("needs a sign-in with %s", [method]),
	"remedy": "Sign in again with it.",
} if {
	credential := input.subject.properties.credential
	credential.kind == "jwt"
	some model in candidates
	some step in needed_steps[model.id]
	some method in step.authentication.amr
	not method in credential.amr
}

finding contains {
	"model": model.id,
	"code": "authentication_age",
	"rule": "credential.age",
	"effect": "step_up",
	"message": fault,
	"remedy": "Sign in again.",
} if {
	input.subject.properties.credential.kind == "jwt"
	some model in candidates
	fault := sign_in_fault(model) # bound here: undefined in the head, it ends the loop in one engine
}

# A token that does not say when the sign-in was may be of any age.
sign_in_fault(model) := "your token does not say when you signed in" if {
	object.get(input.subject.properties.credential, "auth_time", null) == null
	some step in needed_steps[model.id]
	step.authentication.max_age_s
} else := "your sign-in is too long ago" if {
	some deadline in sign_in_deadlines(model)
	reached(deadline)
}

# When the sign-in of a token becomes too old for the levels that a model needs.
sign_in_deadlines(model) := {deadline |
	signed_in_at := input.subject.properties.credential.auth_time
	signed_in_at != null
	some step in needed_steps[model.id]
	age_ns := step.authentication.max_age_s * 1000000000
	deadline := time.format(time.parse_rfc3339_ns(signed_in_at) + age_ns)
}
