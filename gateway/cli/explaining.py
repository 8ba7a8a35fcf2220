"""``audit show --explain``: the decisions of a call made again, with the rules of then."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from gateway.audit.seal import SealError
from gateway.cli.records import safe
from gateway.cli.sealing_keys import CANNOT_OPEN, facts_of
from gateway.cli.shards import Found
from gateway.cli.terminal import EXIT_NO, EXIT_UNAVAILABLE, say
from gateway.control.explain import Explained, ExplainedReason, NotExplained, explain
from gateway.policy.findings import BundleError
from gateway.policy.kept_revisions import RevisionNotKept, kept_revision
from gateway.state import StateDirectory

__all__ = ["decisions_json", "end_explained", "explained_decisions", "show_decisions"]

Explanations = Mapping[str, Explained | str]
"""By position (``shard#seq``); a text says why a decision cannot be made again."""


def explained_decisions(state: StateDirectory, timeline: Sequence[Found]) -> Explanations:
    """Each decision of a timeline, made again."""
    return {
        f"{shard}#{entry.seq}": _explained(state, (shard, entry))
        for shard, entry in timeline
        if "decision" in entry.json()
    }


def _explained(state: StateDirectory, found: Found) -> Explained | str:
    record = found[1].json()
    try:
        facts = facts_of(state, found[1])
        bundle = kept_revision(state.revisions, record["decision"]["revision"])
        return explain(record, facts, bundle)
    except (SealError, NotExplained, RevisionNotKept, BundleError, *CANNOT_OPEN) as error:
        return f"unavailable: {error}"


def decisions_json(explanations: Explanations) -> dict[str, Any]:
    """As plain values."""
    return {position: msgspec.to_builtins(each) for position, each in explanations.items()}


def show_decisions(explanations: Explanations) -> None:
    """For people."""
    for position, each in explanations.items():
        say()
        if isinstance(each, str):
            say(safe(f"decision of {position}  {each}"))
            continue
        came = each.decision.effect if each.decision is not None else "none"
        say(f"decision of {position}  {came}: {'the same' if each.same else 'NOT the same'}")
        say(f"    by {each.revision}")
        for difference in each.differences:
            say(safe(f"    {difference}"))
        for reason in each.reasons:
            _show_reason(reason)


def _show_reason(reason: ExplainedReason) -> None:
    say()
    say(safe(f"    {reason.code}: {reason.message}. {reason.remedy}"))
    source = reason.source
    if source is None:
        say(safe(f"    rule {reason.rule}: not of this revision"))
        return
    title = f": {source.title}" if source.title else ""
    say(safe(f"    rule {reason.rule}, {source.file}:{source.line}{title}"))
    for number, line in enumerate(source.text.splitlines(), start=source.first):
        mark = ">" if number == source.line else " "
        say(safe(f"  {mark} {number:4}  {line.expandtabs(4)}"))


def end_explained(explanations: Explanations) -> None:
    """End the command as its decisions came out: 1 where one is not the same, 3 where one cannot be
    made again."""
    if any(isinstance(each, Explained) and not each.same for each in explanations.values()):
        raise SystemExit(EXIT_NO)
    if any(isinstance(each, str) for each in explanations.values()):
        raise SystemExit(EXIT_UNAVAILABLE)
