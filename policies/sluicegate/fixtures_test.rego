# What the tests share: a small world of their own, so that a change to policies/data fails no test.
package sluicegate_test

# A subject, action and context that nothing stands against: everything that `guarded` asks for is
# met. Tests take one thing away.
base := {
	"subject": {
		"type": "member",
		"id": "m-1",
		"properties": {
			"status": "active",
			"tiers": {"cyber": 3},
			"roles": [],
			"purposes": ["defence"],
			"vetting": [
				{"kind": "identity", "level": 3, "verified_at": "2026-01-01T00:00:00Z", "expires_at": "2027-01-01T00:00:00Z"},
				{"kind": "safety", "level": 2, "verified_at": "2026-01-01T00:00:00Z", "expires_at": null},
			],
			"nationalities": ["DE"],
			"residence": "DE",
			"sponsored": false,
			"organisation": {
				"id": "o-1",
				"status": "active",
				"tiers": {"cyber": 3},
				"retention": "standard",
				"licences": ["key"],
				"agreements": ["terms"],
			},
			"credential": {
				"id": "c-1",
				"kind": "api_key",
				"bound": "dpop",
				"expires_at": null,
				"scopes": [],
				"amr": [],
				"auth_time": null,
			},
			"engagement": null,
		},
	},
	"action": {
		"name": "model.generate",
		"properties": {
			"wire": "messages",
			"stream": true,
			"background": false,
			"store": false,
			"max_output_tokens": 1000,
			"tool_kinds": [],
			"custom_tools": 0,
			"program": null,
			"remote_fetch": false,
		},
	},
	"resource": {"type": "model", "id": "guarded"},
	"context": {
		"time": "2026-06-01T12:00:00Z",
		"calendar": {"weekday": 1, "hour": 12},
		"clock": "ok",
		"network": {"labels": ["lab"], "country": "DE"},
		"signals": {},
		"targets": {"named": 0, "out_of_scope": 0},
		"budgets": {},
	},
}

world := {
	"models": {
		"plain": {"id": "plain", "stage": "general", "wires": ["messages", "chat"]},
		"guarded": {
			"id": "guarded",
			"stage": "trusted",
			"wires": ["messages", "count_tokens"],
			"classes": {"cyber": 3},
			"fallback": "plain",
			"requires": {
				"tiers": {"cyber": 3},
				"vetting": {"safety": 2},
				"licences": ["key"],
				"retention": ["standard", "long"],
				"agreements": ["terms"],
				"networks": ["lab", "office"],
				"purposes": ["defence", "offence"],
				"countries_denied": ["AA", "ZZ"],
				"tool_kinds_denied": ["mcp"],
				"bound_credential": true,
			},
		},
		"tested": {"id": "tested", "stage": "red-team", "wave": "spring", "wires": ["messages"], "fallback": "plain"},
		"hidden": {"id": "hidden", "stage": "embargoed", "wires": ["messages"], "classes": {"cyber": 4}},
		"old": {"id": "old", "stage": "retired", "wires": ["messages"], "fallback": "plain"},
		"Team/Model-1": {
			"id": "Team/Model-1",
			"stage": "general",
			"wires": ["messages"],
			"requires": {"countries_denied": ["AA"]},
		},
	},
	"stages": {
		"general": {"admits": [{}], "capture": "digest"},
		"trusted": {
			"admits": [{"min_tier": {"cyber": 2}}],
			"capture": "sealed_request",
			"denies": {"remote_fetch": true, "store": true, "tool_kinds": ["computer"]},
		},
		"red-team": {
			"admits": [{"roles": ["red-team"]}],
			"approval": {"output_tokens_over": 5000, "tool_kinds": ["shell"]},
		},
		"embargoed": {"admits": [{"roles": ["evaluator"]}], "visible_to": ["evaluator"], "capture": "digest"},
		"retired": {"admits": [], "retired": true, "capture": "metadata"},
	},
	"waves": {"spring": {
		"opens_at": "2026-07-01T09:00:00Z",
		"closes_at": "2026-08-01T09:00:00Z",
		"admits": [{"organisations": ["o-1"]}],
	}},
	"tiers": {"cyber": {
		"open_evaluation": 0,
		"levels": [
			{"level": 0},
			{"level": 1},
			{"level": 2, "vetting": {"identity": 2}},
			{
				"level": 3,
				"vetting": {"identity": 3, "safety": 1},
				"authentication": {"amr": ["mfa"], "max_age_s": 3600},
			},
		],
		"classes": {"targets_from": 3, "review_from": 3, "sealed_from": 4},
	}},
	"programmes": {
		"standard": {"admits": [{}]},
		"daybreak_red": {"admits": [{"roles": ["red-team"], "min_tier": {"cyber": 3}}]},
	},
	"purposes": {"defence": {}, "offence": {"approval": true}},
	"signals": {"misuse": {"review": 500, "deny": 900}},
	"limits": {
		"actions": {"model.list": []},
		"stages": {
			"general": [{"from_level": 0, "limits": [{"name": "requests.general"}]}],
			"trusted": [
				{"from_level": 0, "limits": [{"name": "requests.low"}]},
				{"from_level": 3, "limits": [{"name": "requests.high"}]},
				{"from_level": 4, "limits": [{"name": "requests.partner"}]},
			],
		},
		"otherwise": [{"name": "requests.otherwise"}],
	},
}

decide(facts) := decide_in(facts, {})

# The decision in a world that is changed: objects are merged, everything else is replaced.
decide_in(facts, change) := decision if {
	changed := object.union(world, change)
	decision := data.sluicegate.decision with input as facts
		with data.models as changed.models
		with data.stages as changed.stages
		with data.waves as changed.waves
		with data.tiers as changed.tiers
		with data.programmes as changed.programmes
		with data.purposes as changed.purposes
		with data.signals as changed.signals
		with data.limits as changed.limits
}

# Facts that differ from the base.
where(change) := object.union(base, change)

subject(change) := where({"subject": {"properties": change}})

organisation(change) := subject({"organisation": change})

credential(change) := subject({"credential": change})

action(change) := where({"action": {"properties": change}})

context(change) := where({"context": change})

asking(id, facts) := object.union(facts, {"resource": {"id": id}})

codes(decision) := [reason.code | some reason in decision.reasons]

# The effect, and the codes of the reasons in their order.
gist(decision) := [decision.effect, codes(decision)]

allowed := ["allow", []]
