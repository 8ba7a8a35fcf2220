"""Calls as people see them: an intent and its outcome are one call, and the calls of one credential
with no long pause between them are one run, such as an agent makes. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from msgspec import Struct

from gateway.audit.terms import effect_of

__all__ = ["PAUSE_NS", "Call", "calls_of", "run_at", "runs_of"]

PAUSE_NS = 30 * 60 * 1_000_000_000
"""A longer silence ends a run."""

Json = dict[str, Any]


class Call(Struct, frozen=True):
    """One call.

    ``at`` is the clock (``hlc``) of its first record and ``end`` that of its last that is known;
    ``status`` is empty while it runs, and for a denial. ``record`` is ``shard#seq`` of its first
    record, ``outcome`` of its last.
    """

    at: int
    end: int
    time: str
    record: str
    outcome: str
    request_id: str
    subject: str
    credential: str
    organisation: str
    model: str
    effect: str
    reason: str
    rule: str
    status: str
    http: int
    input_tokens: int
    output_tokens: int
    dur_ms: int
    review: bool


def calls_of(found: Iterable[tuple[str, Json]]) -> list[Call]:
    """Calls in order of time, from records with their shards, in any order. An outcome whose intent
    is not among them is left out."""
    found = sorted(found, key=lambda each: int(each[1]["hlc"]))
    ends = {
        (shard, record["parent"]): (shard, record)
        for shard, record in found
        if record["type"] == "access.outcome"
    }
    return [
        _call(shard, record, ends.get((shard, record["seq"])))
        for shard, record in found
        if record["type"] in {"access.intent", "access.denied"}
    ]


def _call(shard: str, record: Json, end: tuple[str, Json] | None) -> Call:
    subject, model = record.get("subject", {}), record.get("model", {})
    decision = record.get("decision", {})
    why = decision.get("reasons", [])
    outcome = end[1] if end is not None else {}
    tokens = outcome.get("tokens", {})
    effect = effect_of(record)
    reason = why[0]["code"] if why else ""
    return Call(
        at=int(record["hlc"]),
        end=int((outcome or record)["hlc"]),
        time=record["time"],
        record=f"{shard}#{record['seq']}",
        outcome=f"{shard}#{outcome['seq']}" if outcome else "",
        request_id=record["request_id"],
        subject=subject.get("id", ""),
        credential=subject.get("credential", ""),
        organisation=subject.get("org", ""),
        model=model.get("requested", ""),
        effect=effect,
        reason=record.get("reason", "") if effect == "refused" else reason,
        rule=why[0]["rule"] if why and effect != "refused" else "",
        status=outcome.get("status", ""),
        http=outcome.get("http", 0) or record.get("http", 0),
        input_tokens=tokens.get("in", 0),
        output_tokens=tokens.get("out", 0),
        dur_ms=outcome.get("dur_ms", 0),
        review=bool(decision.get("review", False)),
    )


def runs_of(calls: Sequence[Call]) -> list[list[Call]]:
    """The runs among one credential's calls, which are in order of time."""
    runs: list[list[Call]] = []
    for call in calls:
        if runs and call.at - runs[-1][-1].at <= PAUSE_NS:
            runs[-1].append(call)
        else:
            runs.append([call])
    return runs


def run_at(calls: Sequence[Call], at: int) -> list[Call]:
    """The run that holds a clock, or nothing."""
    return next((run for run in runs_of(calls) if run[0].at <= at <= run[-1].at), [])
