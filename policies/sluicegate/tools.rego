# What a call may set in motion besides the model's own words.
package sluicegate

kind_denied(model, kind) if {
	kind in model.requires.tool_kinds_denied
} else if {
	kind in model.release.denies.tool_kinds
}

finding contains {
	"model": model.id,
	"code": "tool_kind_denied",
	"rule": "tools.kind",
	"effect": "deny",
	"message": sprintf("this model takes no tools of kind %s", [kind]),
	"remedy": "Leave these tools out.",
} if {
	some kind in input.action.properties.tool_kinds
	some model in candidates
	kind_denied(model, kind)
}

finding contains {
	"model": model.id,
	"code": "remote_fetch_denied",
	"rule": "tools.remote_fetch",
	"effect": "deny",
	"message": "this model fetches no remote address",
	"remedy": "Send the content in the request itself.",
} if {
	input.action.properties.remote_fetch
	some model in candidates
	model.release.denies.remote_fetch == true
}

finding contains {
	"model": model.id,
	"code": "store_denied",
	"rule": "tools.store",
	"effect": "deny",
	"message": "answers of this model are not stored upstream",
	"remedy": "Send \"store\": false.",
} if {
	input.action.properties.store
	some model in candidates
	model.release.denies.store == true
}

# Nobody would watch the answer: no re-check could cut it.
finding contains {
	"code": "background_denied",
	"rule": "tools.background",
	"effect": "deny",
	"message": "no call runs in the background",
	"remedy": "Leave \"background\" out, and stream.",
} if {
	input.action.properties.background
}
