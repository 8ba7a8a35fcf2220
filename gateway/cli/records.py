"""How records read: one line each in a tail, a paragraph each in a timeline.

A line's columns stand where they stand in every line: what is too long for its column is cut in the
middle, and read whole in ``audit show`` or ``--json``. Why something happened comes last, and is
cut only where a terminal ends.

Text in a record may come from an upstream or an operator; what a terminal would obey is replaced.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

__all__ = ["Lines", "paragraph", "safe", "wanted"]

Json = Mapping[str, Any]

REVISION_SHOWN = 12
"""Hex digits of a revision that a line shows."""
_COMMON = frozenset({"v", "log", "seq", "time", "type", "hlc", "boot", "mono", "clock", "gateway"})
"""What a timeline leaves out: it is in the head line, or for machines."""
_DIGITS = 19
"""Characters of an RFC 3339 time up to the seconds; order within one is the records' own."""
_COLUMNS = (
    ("TIME", 0, None),
    ("RECORD", 22, None),
    ("TYPE", 36, 16),
    ("WHO", 54, 11),
    ("ABOUT", 67, 18),
    ("WHAT", 87, None),
    ("WHY", 101, None),
)
"""Head, first character, and the most characters of each column; ``None`` is never cut."""
_LEAST = 112
"""A terminal of fewer characters has no room for a reason; there lines run on into the next."""
_NAMES = {"organisation": "org", "credential": "key"}
"""The commands' words for kinds of entities."""
_EFFECTS = {"require_approval": "approval"}


def wanted(record_type: str, types: tuple[str, ...]) -> bool:
    """Whether a record is asked for: by its type or the part before the dot.

    Without a wish all are, but for heartbeats, which would drown the rest.
    """
    if not types:
        return record_type != "log.heartbeat"
    return record_type in types or record_type.partition(".")[0] in types


@dataclass(frozen=True, slots=True)
class Told:
    """What a line says of a record: who, about what, what came of it, and why."""

    who: str = ""
    about: str = ""
    what: str = ""
    why: str = ""


@dataclass(slots=True)
class Lines:
    """Writes lines; remembers running calls, so that an outcome names its caller.

    Args:
        width: of the terminal; ``None`` where there is none, and lines are as long as they are.
    """

    width: int | None = None
    _running: dict[str, Told] = field(default_factory=dict)

    def line(self, shard: str, record: Json) -> str:
        """Time, ``shard#seq``, type, who, about what, what came of it, why."""
        told = self._told(record)
        time = f"{str(record['time'])[:_DIGITS]}Z"
        cells = (told.who or "-", told.about or "-", told.what or "-", told.why)
        return self._aligned(time, f"{shard}#{record['seq']}", record["type"], *cells)

    def head(self) -> str:
        """What the columns are."""
        return self._aligned(*(name for name, _, _ in _COLUMNS))

    def _aligned(self, *cells: str) -> str:
        """Each cell in its column; after one that is too long and not cut, as near as may be."""
        line = ""
        for cell, (_, start, most) in zip(cells, _COLUMNS, strict=True):
            text = safe(str(cell))
            gap = max(start - len(line), 1 if line else 0)
            line += " " * gap + (_cut(text, most) if most is not None else text)
        line = line.rstrip()
        if self.width is None or not _LEAST <= self.width < len(line):
            return line
        return line[: self.width - 1] + "…"

    def _told(self, record: Json) -> Told:
        kind = str(record["type"])
        if kind == "access.outcome":
            call = self._running.pop(record["request_id"], Told())
            return Told(call.who, call.about, _outcome(record), safe(_why_ended(record)))
        reader = _READERS.get(kind)
        told = reader(record) if reader is not None else Told(why=_rest(record))
        told = replace(told, why=safe(told.why))
        if kind == "access.intent":
            self._running[record["request_id"]] = told
        return told


def paragraph(shard: str, record: Json) -> Iterator[str]:
    """A head line and the record's own fields, one a line."""
    yield f"{record['time']}  {shard}#{record['seq']}  {record['type']}"
    for name, value in _flat("", record):
        yield f"    {name:22}  {safe(str(value))}"


def _flat(prefix: str, value: Json) -> Iterator[tuple[str, Any]]:
    for name, each in value.items():
        if not prefix and name in _COMMON:
            continue
        if isinstance(each, dict):
            yield from _flat(f"{prefix}{name}.", each)
        elif isinstance(each, list):
            for item in each:
                yield prefix + name, _in_words(item)
        else:
            yield prefix + name, each


def _in_words(item: Any) -> str:
    if isinstance(item, dict):
        return " ".join(f"{name}={value}" for name, value in item.items())
    return str(item)


def safe(text: str) -> str:
    """Text from elsewhere, without what a terminal would obey."""
    return "".join(char if char.isprintable() else "\N{REPLACEMENT CHARACTER}" for char in text)


def _cut(text: str, most: int) -> str:
    """In the middle: ids that are made in a row differ at their ends."""
    if len(text) <= most:
        return text
    end = (most - 1) // 2
    return f"{text[: most - 1 - end]}…{text[-end:]}"


def _who(record: Json) -> str:
    return str(record.get("subject", {}).get("id", ""))


def _model(record: Json) -> str:
    model = record.get("model", {})
    asked, served = model.get("requested", ""), model.get("authorised", "")
    return f"{asked}->{served}" if served and served != asked else str(asked)


def _reasons(record: Json) -> str:
    reasons = record.get("decision", {}).get("reasons", [])
    return ", ".join(f"{each['code']} ({each['rule']})" for each in reasons)


def _intent(record: Json) -> Told:
    effect = record["decision"]["effect"]
    return Told(_who(record), _model(record), _EFFECTS.get(effect, effect), _reasons(record))


def _denied(record: Json) -> Told:
    """The policy's effect where it denied; what it allowed was refused by something else."""
    effect = record.get("decision", {}).get("effect", "allow")
    why = _reasons(record) if effect != "allow" else ""
    effect = "refused" if effect == "allow" else _EFFECTS.get(effect, effect)
    return Told(
        _who(record), _model(record), f"{effect} {record['http']}", why or record.get("reason", "")
    )


def _outcome(record: Json) -> str:
    return f"{record['status']} {record.get('http', '')}".rstrip()


def _why_ended(record: Json) -> str:
    tokens = record.get("tokens", {})
    used = f"{tokens['in']} in, {tokens['out']} out" if tokens else ""
    return "; ".join(part for part in (record.get("reason", ""), used) if part)


def _changed(record: Json) -> Told:
    tiers = " ".join(f"{domain}={level}" for domain, level in record.get("tiers", {}).items())
    reason = record.get("reason", "")
    return Told(
        record["actor"],
        _entity(record),
        record["op"].rpartition(".")[2],
        f"{reason} ({tiers})" if tiers else reason,
    )


def _tampered(record: Json) -> Told:
    return Told("", _entity(record), "TAMPERED", record["finding"])


def _entity(record: Json) -> str:
    return f"{_NAMES.get(record['kind'], record['kind'])} {record['id']}".strip()


def _activated(record: Json) -> Told:
    return Told(record["actor"], _revision(record), "active", record.get("reason", ""))


def _rejected(record: Json) -> Told:
    findings = record.get("findings", [])
    more = f" (and {len(findings) - 1} more)" if len(findings) > 1 else ""
    return Told("", _revision(record), "rejected", "".join(findings[:1]) + more)


def _engine(record: Json) -> Told:
    return Told("", record["engine"], f"{record.get('count', 1)} faults", record.get("reason", ""))


def _refused(record: Json) -> Told:
    counts = ", ".join(f"{name} {count}" for name, count in record["counts"].items())
    return Told("anonymous", "", f"in {record['window_s']} s", counts)


def _signed(record: Json) -> Told:
    what = record["type"].rpartition(".")[2].replace("_", " ")
    about = record.get("member", "") or record.get("action", "")
    return Told(record["actor"], about, what, record.get("reason", ""))


def _pruned(record: Json) -> Told:
    what = f"{record['pieces']} removed"
    held = f", {record['held']} held" if record.get("held") else ""
    return Told(record["actor"], record["origin"], what + held, record.get("reason", ""))


def _reviewed(record: Json) -> Told:
    span = record.get("span", {})
    about = record.get("ref", "") or record.get("query", "") or record.get("record", "")
    about = about or record.get("case", "") or record.get("approval", "")
    settled = record.get("code", "") or record.get("to", "") or record.get("act", "")
    why = "; ".join(part for part in (span.get("subject", ""), record.get("reason", "")) if part)
    what = record["type"].rpartition(".")[2].replace("_", " ")
    return Told(record["actor"], about, f"{what} {settled}".rstrip(), why)


def _opened(record: Json) -> Told:
    return Told("", f"{record['size']} records", "clean" if record["clean"] else "UNCLEAN")


def _running(record: Json) -> Told:
    return Told(what=f"{record['open']} running")


def _revision(record: Json) -> str:
    return str(record.get("revision", "")).removeprefix("sha256:")[:REVISION_SHOWN]


def _rest(record: Json) -> str:
    return " ".join(
        f"{name}={_in_words(value)}" for name, value in record.items() if name not in _COMMON
    )


_READERS: Mapping[str, Callable[[Json], Told]] = {
    "access.intent": _intent,
    "access.denied": _denied,
    "access.refused_summary": _refused,
    "registry.changed": _changed,
    "registry.tampered": _tampered,
    "policy.activated": _activated,
    "policy.rejected": _rejected,
    "policy.engine_error": _engine,
    "staff.link_made": _signed,
    "staff.signed_in": _signed,
    "staff.signed_out": _signed,
    "staff.refused": _signed,
    "review.searched": _reviewed,
    "review.viewed": _reviewed,
    "review.exported": _reviewed,
    "review.assigned": _reviewed,
    "review.noted": _reviewed,
    "review.resolved": _reviewed,
    "case.opened": _reviewed,
    "case.extended": _reviewed,
    "case.closed": _reviewed,
    "approval.requested": _reviewed,
    "approval.given": _reviewed,
    "approval.refused": _reviewed,
    "content.revealed": _reviewed,
    "content.pruned": _pruned,
    "log.opened": _opened,
    "log.closed": _running,
    "log.heartbeat": _running,
}
