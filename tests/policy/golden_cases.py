"""The golden cases: what the sample policy must answer, case by case.

Each case says the effect and the codes that a person expects; ``golden/<name>.json`` holds the
whole facts and the whole decision. After a change that is meant,

    python tests/policy/golden_cases.py

writes the files again, and refuses where an answer is not the expected one.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, NamedTuple

import regorus
from facts_factory import BLUE, JWT, NEWCOMER, POLICIES, engagement, facts, sample_data, vetting

GOLDEN = Path(__file__).parent / "golden"


class Case(NamedTuple):
    effect: str
    codes: list[str]
    overrides: dict[str, Any]


CHAT = {"action__wire": "chat"}
EVALUATOR = {"subject__roles": ["evaluator"]}
RED_TEAM = {"subject__roles": ["red-team"], "subject__credential__bound": "dpop"}
EMBEDDING = {
    "model": "text-embedding-4",
    "action_name": "model.embed",
    "action__wire": "embeddings",
}
LIST = {"action_name": "model.list", "action__wire": "models"}
ROSALIND = {"model": "gpt-rosalind", "action__wire": "responses"}


def allow(**overrides: Any) -> Case:
    return Case("allow", [], overrides)


def deny(*codes: str, **overrides: Any) -> Case:
    return Case("deny", list(codes), overrides)


def step_up(*codes: str, **overrides: Any) -> Case:
    return Case("step_up", list(codes), overrides)


def approval(*codes: str, **overrides: Any) -> Case:
    return Case("require_approval", list(codes), overrides)


CASES = {
    # The demo's people
    "newcomer-gpt": allow(**NEWCOMER, **CHAT, model="gpt-5.5"),
    "newcomer-opus": allow(**NEWCOMER, model="opus-4.8"),
    "newcomer-embedding": allow(**NEWCOMER, **EMBEDDING),
    "newcomer-mythos": deny("tier_insufficient", "stage_not_admitted", **NEWCOMER),
    "newcomer-fable": deny("tier_insufficient", "stage_not_admitted", **NEWCOMER, model="fable-5"),
    "blue-gpt-cyber": allow(**BLUE, action__wire="responses", model="gpt-5.5-cyber"),
    "blue-glm": allow(**BLUE, **CHAT, model="glm-5.2"),
    "blue-fable": Case(
        "downgrade", ["downgraded", "tier_insufficient"], {**BLUE, "model": "fable-5"}
    ),
    "blue-fable-count": Case(
        "downgrade",
        ["downgraded", "tier_insufficient"],
        {**BLUE, "model": "fable-5", "action_name": "model.count_tokens"}
        | {"action__wire": "count_tokens"},
    ),
    "blue-fable-list": deny("tier_insufficient", **BLUE, **LIST, model="fable-5"),
    "red-mythos": allow(),
    "red-fable": allow(model="fable-5"),
    "red-gpt-cyber": allow(**CHAT, model="gpt-5.5-cyber"),
    "red-mythos-list": allow(**LIST),
    "red-mythos-token": allow(**JWT),
    # Models that may not be known of
    "unknown-model": deny("model_not_found", model="unknown"),
    "embargoed-model": deny("model_not_found", model="mythos-6"),
    "embargoed-model-trouble": deny(
        "model_not_found", **NEWCOMER, model="mythos-6", subject__status="suspended"
    ),
    "embargoed-model-evaluator": deny(
        "tier_insufficient",
        "network_denied",
        "engagement_required",
        **EVALUATOR,
        model="mythos-6",
    ),
    "embargoed-model-evaluator-allowed": allow(
        subject__roles=["evaluator"],
        subject__tiers={"cyber": 4},
        subject__organisation__tiers={"cyber": 4},
        subject__vetting=[vetting("identity", 3), vetting("organisation", 3)],
        subject__engagement=engagement(),
        context__network={"labels": ["evaluation-lab"], "country": "ZZ"},
        model="mythos-6",
    ),
    # Standing
    "member-suspended": deny("member_inactive", subject__status="suspended"),
    "organisation-withdrawn": deny(
        "organisation_inactive", subject__organisation__status="withdrawn"
    ),
    "credential-expired": deny(
        "credential_expired", subject__credential__expires_at="2026-11-23T12:00:00Z"
    ),
    "credential-scope": deny("credential_scope", subject__credential__scopes=["wire:chat"]),
    # Tiers and vetting
    "organisation-cap": deny(
        "tier_insufficient", "stage_not_admitted", subject__organisation__tiers={"cyber": 1}
    ),
    "vetting-expired": deny(
        "tier_insufficient",
        subject__vetting=[
            vetting("identity", 3, "2026-11-23T12:00:00Z"),
            vetting("identity", 2),
            vetting("organisation", 2),
        ],
    ),
    "biosafety-missing": deny(
        "vetting_required",
        **ROSALIND,
        subject__purposes=["biodefence"],
        subject__vetting=[vetting("identity", 2), vetting("organisation", 2)],
    ),
    # Stages and waves
    "retired": deny("model_retired", model="opus-4.1"),
    "red-team-not-admitted": deny("wave_not_open", "bound_credential_required", model="fable-5.1"),
    "red-team-outsider": deny(
        "tier_insufficient",
        "stage_not_admitted",
        **(NEWCOMER | {"subject__credential__bound": "mtls"}),
        model="fable-5.1",
    ),
    "wave-open": allow(
        model="fable-5.1",
        subject__credential__bound="mtls",
        context__time="2027-03-01T09:00:00Z",
    ),
    "wave-clock-unsure": deny(
        "wave_not_open",
        model="fable-5.1",
        subject__credential__bound="mtls",
        context__time="2027-03-01T09:00:00Z",
        context__clock="unsure",
    ),
    # Requirements
    "licence-missing": deny("licence_missing", subject__organisation__licences=[]),
    "agreement-missing": deny("agreement_missing", subject__organisation__agreements=[]),
    "retention-zero": deny("retention_unsuitable", subject__organisation__retention="zero"),
    "purpose-missing": deny("purpose_missing", subject__purposes=["tourism"]),
    "country-denied": deny("country_denied", subject__nationalities=["DE", "IR"]),
    "country-licensed": allow(
        subject__nationalities=["DE", "IR"],
        subject__organisation__licences=["glasswing", "export:mythos-5"],
    ),
    # Engagements and targets
    "engagement-closed": deny(
        "engagement_inactive", subject__engagement=engagement(status="closed")
    ),
    "engagement-over": deny(
        "engagement_window", subject__engagement=engagement(ends_at="2026-11-23T12:00:00Z")
    ),
    "target-out-of-scope": deny(
        "target_out_of_scope", context__targets={"named": 2, "out_of_scope": 1}
    ),
    # What the call asks for
    "program-red": deny(
        "program_denied", **CHAT, model="gpt-5.5-cyber", action__program="daybreak_red"
    ),
    "program-blue": allow(**CHAT, model="gpt-5.5-cyber", action__program="daybreak_blue"),
    "program-other": deny("program_denied", **CHAT, model="gpt-5.5", action__program="other"),
    "tool-denied": deny("tool_kind_denied", **CHAT, model="glm-5.2", action__tool_kinds=["mcp"]),
    "remote-fetch": deny("remote_fetch_denied", action__remote_fetch=True),
    "store": deny("store_denied", **RED_TEAM, model="fable-5.1", action__store=True),
    "background": deny(
        "background_denied", action__wire="responses", model="gpt-5.5", action__background=True
    ),
    "budget-spent": deny("budget_spent", context__budgets={"cyber": "spent", "total": "low"}),
    "signal-deny": deny("signal_threshold", context__signals={"misuse": 900}),
    "signal-review": allow(model="opus-4.8", context__signals={"misuse": 500}),
    # A second person
    "purpose-approval": approval(
        "purpose_needs_approval", subject__purposes=["authorised-offence"]
    ),
    "tools-approval": approval(
        "tools_need_approval", **RED_TEAM, model="fable-5.1", action__tool_kinds=["shell"]
    ),
    "output-approval": approval(
        "output_needs_approval", **RED_TEAM, model="fable-5.1", action__max_output_tokens=0
    ),
    # A stronger credential
    "bound-credential": step_up(
        "bound_credential_required", subject__roles=["red-team"], model="fable-5.1"
    ),
    "no-second-factor": step_up(
        "authentication_method", **(JWT | {"subject__credential__amr": ["pwd"]})
    ),
    "old-sign-in": step_up(
        "authentication_age",
        **(JWT | {"subject__credential__auth_time": "2026-11-23T00:00:00Z"}),
    ),
    "undated-sign-in": step_up(
        "authentication_age", **(JWT | {"subject__credential__auth_time": None})
    ),
}


def rules() -> dict[str, str]:
    """The rules of the sample policy by file name, without their tests."""
    return {
        path.name: path.read_text()
        for path in sorted((POLICIES / "sluicegate").glob("*.rego"))
        if not path.name.endswith("_test.rego")
    }


def engine() -> regorus.Engine:
    """The embedded engine with the sample policy."""
    loaded = regorus.Engine()
    for name, text in rules().items():
        loaded.add_policy(name, text)
    loaded.add_data_json(json.dumps(sample_data()))
    return loaded


def decide(loaded: regorus.Engine, document: dict[str, Any]) -> dict[str, Any]:
    loaded.set_input_json(json.dumps(document))
    return json.loads(loaded.eval_rule_as_json("data.sluicegate.decision"))


def gist(decision: dict[str, Any]) -> tuple[str, list[str]]:
    return decision["effect"], [reason["code"] for reason in decision["reasons"]]


def write() -> None:
    loaded = engine()
    GOLDEN.mkdir(exist_ok=True)
    for name, case in CASES.items():
        document = facts(**case.overrides)
        decision = decide(loaded, document)
        if gist(decision) != (case.effect, case.codes):
            raise SystemExit(f"{name}: expected {case.effect} {case.codes}, got {gist(decision)}")
        golden = {"name": name, "facts": document, "decision": decision}
        (GOLDEN / f"{name}.json").write_text(json.dumps(golden, indent=1, sort_keys=True) + "\n")
    for path in GOLDEN.glob("*.json"):
        if path.stem not in CASES:
            path.unlink()


if __name__ == "__main__":
    write()
