"""A recorded decision made again: from the very facts, by the very revision. Pure.

Facts are complete and a decision is a function of them, so the same must come out. What does not is
named: then the record, the facts, the kept revision or an engine is not what it was. The rules are
run by the embedded engine, whichever engine the gateway used.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any, Final

import msgspec
from msgspec import Struct

from gateway.audit.records import DecisionRef
from gateway.core.clock import parse_timestamp, timestamp
from gateway.core.decision import Decision, Effect
from gateway.core.facts import Facts
from gateway.core.protocols import EngineUnavailable, Revision
from gateway.policy.bundle import Bundle
from gateway.policy.embedded import Interpreter
from gateway.policy.judge import encode_facts
from gateway.policy.revision import revision_of
from gateway.policy.validity import valid_until

__all__ = ["Explained", "ExplainedReason", "NotExplained", "RuleText", "explain", "rule_text"]

Json = Mapping[str, Any]

_METADATA: Final = "# METADATA"
_ENTRY: Final = re.compile(r"#\s*(title|description):\s*(.+)")
_STRINGS: Final = re.compile(r'"(?:[^"\\]|\\.)*"|`[^`]*`')


class NotExplained(ValueError):
    """There is nothing to explain, or not by this."""


class RuleText(Struct, frozen=True):
    """A rule as it stood.

    ``line`` is that of its id, ``first`` the one that ``text`` begins at, its comment included.
    ``title`` and ``description`` are its Rego metadata, where it has any.
    """

    file: str
    line: int
    first: int
    text: str
    title: str = ""
    description: str = ""


class ExplainedReason(Struct, frozen=True):
    """A reason that came out now, with the rule that gave it (``None``: not of the revision)."""

    code: str
    rule: str
    message: str
    remedy: str
    source: RuleText | None


class Explained(Struct, frozen=True):
    """What came out. ``same`` is true exactly where there are no ``differences``; ``decision`` is
    ``None`` where the rules gave none."""

    same: bool
    decision: Decision | None
    reasons: tuple[ExplainedReason, ...]
    revision: str
    differences: tuple[str, ...]


def explain(record: Json, facts: bytes, bundle: Bundle) -> Explained:
    """Make a recorded decision again.

    Args:
        record: an intent or a denial, as plain values.
        facts: what is sealed beside it, opened.
        bundle: the revision that it names.

    Raises:
        NotExplained: the record holds no decision, or one of another revision, or these are no
            facts.
        BundleError: the bundle does not load.
    """
    try:
        recorded = msgspec.convert(record["decision"], DecisionRef)
        asked = msgspec.json.decode(facts, type=Facts)
    except KeyError:
        raise NotExplained("the record holds no decision") from None
    except (msgspec.DecodeError, msgspec.ValidationError, UnicodeDecodeError):
        raise NotExplained("record or facts are of another shape than this version's") from None
    if recorded.revision != bundle.id:
        raise NotExplained(f"it was decided by {recorded.revision}, not by {bundle.id}")
    revision = revision_of(bundle)
    interpreter = Interpreter(bundle.modules, bundle.data)
    try:
        decision = interpreter.decide(facts)
        kept = _kept(interpreter, asked, decision)
    except EngineUnavailable as error:
        return Explained(False, None, (), bundle.id, (f"the rules give no decision: {error}",))
    now = parse_timestamp(asked.context.time)
    end = timestamp(valid_until(facts, now, revision.instants, decision))
    differences = tuple(_differences(record, recorded, decision, kept, end))
    return Explained(
        same=not differences,
        decision=decision,
        reasons=tuple(_reasons(bundle, revision, decision)),
        revision=bundle.id,
        differences=differences,
    )


def _kept(interpreter: Interpreter, asked: Facts, decision: Decision) -> tuple[str, bool]:
    """How much is kept of the call, and whether it is looked at: what is served in the place of the
    model that was asked for has a say in it."""
    if decision.model is None:
        return decision.capture, decision.review
    served = msgspec.structs.replace(asked.resource, id=decision.model)
    facts = encode_facts(msgspec.structs.replace(asked, resource=served))
    substitute = interpreter.decide(facts)
    return substitute.capture, decision.review or substitute.review


def _differences(
    record: Json, recorded: DecisionRef, decision: Decision, kept: tuple[str, bool], end: str
) -> Iterator[str]:
    capture, review = kept
    authorised = record.get("model", {}).get("authorised", "")
    pairs: list[tuple[str, Any, Any]] = [
        ("effect", recorded.effect, decision.effect.value),
        (
            "reasons",
            [(each.code, each.rule) for each in recorded.reasons],
            [(each.code, each.rule) for each in decision.reasons],
        ),
        ("valid_until", recorded.valid_until, end),
        ("capture", recorded.capture, str(capture)),
        ("review", recorded.review, review),
    ]
    if decision.effect is Effect.DOWNGRADE and authorised:
        pairs.append(("substitute", authorised, decision.model))
    for name, before, now in pairs:
        if before != now:
            yield f"{name}: recorded {_told(before)}, now {_told(now)}"
    for directive in recorded.directives:
        yield f"directive {directive} reached the call; it is no part of the revision"


def _told(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, list):
        return ", ".join(f"{code} ({rule})" for code, rule in value) or "none"
    return str(value) or "none"


def _reasons(bundle: Bundle, revision: Revision, decision: Decision) -> Iterator[ExplainedReason]:
    for each in decision.reasons:
        place = revision.rules.get(each.rule)
        source = None if place is None else rule_text(bundle, place.file, place.line)
        yield ExplainedReason(each.code, each.rule, each.message, each.remedy, source)


def rule_text(bundle: Bundle, file: str, line: int) -> RuleText:
    """The rule around a line: from the comment that stands right above it to its end.

    Rules are parted by empty lines; one within braces parts nothing.

    Args:
        bundle: the revision.
        file: one of its modules.
        line: from 1.
    """
    lines = bundle.modules[file].splitlines()
    depth, first, last = 0, 0, len(lines)
    for number, each in enumerate(lines):
        code = _STRINGS.sub("", each).partition("#")[0]
        depth += sum(code.count(sign) for sign in "{[(") - sum(code.count(sign) for sign in ")]}")
        if each.strip() or depth > 0:
            continue
        if number >= line:
            last = number
            break
        first = number + 1
    text = "\n".join(lines[first:last])
    about = dict(_metadata(lines[first:last]))
    return RuleText(
        file, line, first + 1, text, about.get("title", ""), about.get("description", "")
    )


def _metadata(lines: list[str]) -> Iterator[tuple[str, str]]:
    """``title`` and ``description`` of a metadata block, as openpolicyagent.org/docs/
    policy-language, "Metadata", has them, where each stands on a line of its own."""
    if _METADATA not in lines:
        return
    for each in lines[lines.index(_METADATA) + 1 :]:
        if not each.startswith("#"):
            return
        entry = _ENTRY.fullmatch(each)
        if entry is not None:
            yield entry[1], entry[2].strip("\"' ")
