# Vendor programmes named by the request: they select inside access and grant nothing.
package sluicegate

finding contains {
	"code": "program_denied",
	"rule": "programmes.not_admitted",
	"effect": "deny",
	"message": "this access program is not open to you",
	"remedy": "Leave access_programs out, or ask to be admitted.",
} if {
	input.action.properties.program != null
	not admits(object.get(data.programmes, [input.action.properties.program, "admits"], []))
}
