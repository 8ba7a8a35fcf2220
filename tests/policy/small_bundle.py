"""A small policy for tests of the machinery: every effect, in a few lines."""

from __future__ import annotations

import msgspec

from gateway.core.facts import Facts
from gateway.policy.bundle import Bundle, bundle_from_files

NOW = "2026-11-23T12:00:00Z"

RULES = """\
package sluicegate

default decision := {
	"effect": "deny",
	"reasons": [{"code": "tier", "rule": "tiers.insufficient", "message": "m", "remedy": "r"}],
}

decision := {"effect": "allow", "review": true} if {
	input.subject.properties.tiers.cyber >= data.models[input.resource.id].requires.tiers.cyber
	not expired
}

expired if {
	expires_at := input.subject.properties.credential.expires_at
	expires_at != null
	expires_at <= input.context.time
}
"""

TESTS = """\
package sluicegate_test

test_denies_strangers if {
	data.sluicegate.decision.effect == "deny" with input as {}
}
"""

MODELS = """\
mythos-5:
  id: mythos-5
  display_name: Mythos 5
  endpoint: anthropic
  wires: [messages]
  stage: trusted
  created_at: "2026-04-07T00:00:00Z"
  requires: {tiers: {cyber: 3}}
  aliases: [mythos-latest]
  fallback: opus
opus:
  id: opus
  display_name: Opus
  endpoint: anthropic
  wires: [messages]
  stage: general
  created_at: "2026-02-01T00:00:00Z"
  requires: {tiers: {cyber: 0}}
"""

FILES = {
    "sluicegate/decision.rego": RULES,
    "sluicegate/decision_test.rego": TESTS,
    "data/models.yaml": MODELS,
    "data/networks.yaml": "lab:\n  - 192.0.2.0/24\n",
    "data/waves.yaml": 'first:\n  opens_at: "2027-03-01T09:00:00Z"\n  admits: [{}]\n',
}


def small_bundle(**changes: str | None) -> Bundle:
    """The bundle with files replaced: ``rules``, ``tests``, ``models``, ``waves``, ``networks``."""
    names = {
        "rules": "sluicegate/decision.rego",
        "tests": "sluicegate/decision_test.rego",
        "models": "data/models.yaml",
        "waves": "data/waves.yaml",
        "networks": "data/networks.yaml",
    }
    files = {**FILES, **{names[key]: text for key, text in changes.items()}}
    return bundle_from_files({name: text.encode() for name, text in files.items() if text})


def rules(body: str) -> Bundle:
    """The small bundle with one rule more."""
    return small_bundle(rules=RULES + "\n" + body + "\n")


def small_facts(
    *,
    cyber: int = 3,
    model: str = "mythos-5",
    time: str = NOW,
    expires_at: str | None = None,
    hour: int = 12,
    **context: object,
) -> Facts:
    """Facts of one member; the credential's expiry is the only other timestamp."""
    return msgspec.convert(
        {
            "subject": {
                "type": "member",
                "id": "m-1",
                "properties": {
                    "status": "active",
                    "tiers": {"cyber": cyber},
                    "roles": ["analyst"],
                    "purposes": [],
                    "vetting": [],
                    "nationalities": ["GB"],
                    "residence": "GB",
                    "sponsored": False,
                    "organisation": {
                        "id": "o-1",
                        "status": "active",
                        "tiers": {"cyber": 3},
                        "retention": "standard",
                        "licences": [],
                        "agreements": [],
                    },
                    "credential": {
                        "id": "c-1",
                        "kind": "api_key",
                        "bound": "none",
                        "expires_at": expires_at,
                        "scopes": [],
                        "amr": [],
                        "auth_time": None,
                    },
                    "engagement": None,
                },
            },
            "action": {
                "name": "model.generate",
                "properties": {
                    "wire": "messages",
                    "stream": True,
                    "background": False,
                    "store": False,
                    "max_output_tokens": 0,
                    "tool_kinds": [],
                    "custom_tools": 0,
                    "program": None,
                    "remote_fetch": False,
                },
            },
            "resource": {"type": "model", "id": model},
            "context": {
                "time": time,
                "calendar": {"weekday": 1, "hour": hour},
                "clock": "ok",
                "network": {"labels": [], "country": "GB"},
                "signals": {},
                "targets": {"named": 0, "out_of_scope": 0},
                "budgets": {},
                **context,
            },
        },
        Facts,
    )
