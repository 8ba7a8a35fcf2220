"""What a record is found by: its terms and its words. Pure.

A term is a dimension and a value, as ``("model", "mythos-5")``. A record that ends a call is found
by who called and what was asked as well, so it is described together with its intent. Words are for
searching by text: each string of the record, and the pieces of it that letters and digits make.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator, Mapping
from functools import lru_cache
from typing import Any

__all__ = [
    "DIMENSIONS",
    "LOTS",
    "Json",
    "Term",
    "draw_of",
    "effect_of",
    "names_of",
    "terms_of",
    "text_terms",
    "words_of",
]

Json = Mapping[str, Any]
"""A record as plain values."""
Term = tuple[str, str]
"""Dimension and value."""

HEARTBEAT = "log.heartbeat"
"""A record of no one's doing."""
DIMENSIONS = {
    "type": "record type, as access.denied; or its part before the dot",
    "effect": "allow, downgrade, step_up, require_approval, deny; or refused, by something else",
    "status": "how a call ended: ok, client_abort, policy_cut, …",
    "subject": "member id",
    "organisation": "organisation id",
    "tier": "the caller's level, as cyber=2",
    "credential": "credential id",
    "engagement": "engagement id",
    "source": "keyed hash of the caller's address",
    "wire": "chat, responses, messages, …",
    "model": "the model asked for",
    "authorised": "the model that was authorised",
    "served": "the model that the endpoint says it served",
    "endpoint": "the endpoint that served it",
    "reason": "reason code",
    "rule": "policy rule",
    "directive": "directive that reached the call",
    "revision": "policy revision",
    "actor": "who made a change",
    "entity": "what was changed, as member:red-1",
    "case": "what reviewers look into together",
    "review": "asked, where the policy wants a call to be looked at",
    "drawn": "a fair draw of the calls that were let through: 1in10, 1in100, 1in1000",
}
"""Every dimension, and what its values are."""

LOTS = {"1in10": 0.1, "1in100": 0.01, "1in1000": 0.001}
"""How large a part of the calls each lot holds."""
_INHERITED = frozenset(
    "subject organisation tier credential engagement source wire model authorised endpoint".split()
)
"""What the end of a call has from its intent."""
_NOT_WORDS = frozenset(
    "v log hlc boot mono time clock gateway request_id decision_id trace_id hmac sha256 "
    "forwarded_sha256 digest forwarded_digest segment commitment sealed_sha256 requested_hmac "
    "digest_before digest_after".split()
)
"""Numbers, digests, and ids that have a look-up of their own."""
_WORD = re.compile("[0-9a-z_./:#=@+\\-\u0080-\U0010ffff]+")
"""What the index's tokenizer keeps together: SQLite's ``ascii``, with these marks among letters."""
_PIECE = re.compile(r"[^\W_]+")
_MAX_WORD = 128
_CACHED = 1 << 16


def terms_of(record: Json, intent: Json | None = None) -> list[Term]:
    """The terms of a record, each once.

    Args:
        record: as stored.
        intent: the one that an ``access.outcome`` ends.
    """
    found = dict.fromkeys(_own(record))
    if intent is not None:
        found |= dict.fromkeys(term for term in _own(intent) if term[0] in _INHERITED)
    return [term for term in found if term[1]]


def effect_of(record: Json) -> str:
    """What became of a call: the policy's effect, or ``refused`` where something else said no;
    empty for every other record."""
    effect = str(record.get("decision", {}).get("effect", "allow"))
    if record["type"] == "access.intent":
        return effect
    if record["type"] == "access.denied":
        return "refused" if effect == "allow" else effect
    return ""


def names_of(record: Json) -> list[str]:
    """The request id and the decision id."""
    return [record[name] for name in ("request_id", "decision_id") if record.get(name)]


def draw_of(record: Json) -> float:
    """A call's lot, from 0 to 1: of its request id, which the gateway draws and no caller chooses,
    so that everyone who samples alike takes the same calls, and nobody can stay out of a sample."""
    digest = hashlib.sha256(b"sluicegate sample\0" + str(record["request_id"]).encode()).digest()
    return int.from_bytes(digest[:8], "big") / (1 << 64)


def words_of(record: Json) -> set[str]:
    """The words that a search by text finds, in lower case."""
    found: set[str] = set()
    for text in _texts(record):
        found.update(_words(text))
    return found


def text_terms(text: str) -> list[tuple[str, bool]]:
    """What was typed, as words and whether each is only the beginning of one (``mythos*``)."""
    return [
        (word[:_MAX_WORD], "*" in typed and index == len(words) - 1)
        for typed in text.lower().split()
        for words in [_WORD.findall(typed)]
        for index, word in enumerate(_bare(words))
        if word
    ]


def _own(record: Json) -> Iterator[Term]:
    kind = str(record["type"])
    yield "type", kind
    yield "type", kind.partition(".")[0]
    yield "effect", effect_of(record)
    subject, model = record.get("subject", {}), record.get("model", {})
    yield "subject", subject.get("id", "")
    yield "organisation", subject.get("org", "")
    yield "credential", subject.get("credential", "")
    yield "engagement", subject.get("engagement", "")
    for domain, level in subject.get("tiers", {}).items():
        yield "tier", f"{domain}={level}"
    yield "source", record.get("src", {}).get("hmac", "")
    yield "wire", record.get("wire", "")
    yield "model", model.get("requested", "")
    yield "authorised", model.get("authorised", "")
    yield "endpoint", model.get("endpoint", "") or record.get("upstream", {}).get("endpoint", "")
    yield "served", record.get("served_model", "")
    yield "status", record.get("status", "")
    decision = record.get("decision", {})
    for reason in decision.get("reasons", ()):
        yield "reason", reason["code"]
        yield "rule", reason["rule"]
    for directive in decision.get("directives", ()):
        yield "directive", directive
    yield "revision", decision.get("revision", "") or record.get("revision", "")
    if kind.startswith("access."):
        yield "reason", record.get("reason", "")
    yield "review", "asked" if decision.get("review") else ""
    if kind == "access.intent":
        draw = draw_of(record)
        yield from (("drawn", lot) for lot, share in LOTS.items() if draw < share)
    yield "subject", record.get("span", {}).get("subject", "") or record.get("member", "")
    yield "case", record.get("case", "")
    yield "actor", record.get("actor", "")
    if kind.startswith("registry."):
        yield "entity", f"{record['kind']}:{record['id']}"
        if record["kind"] == "member":
            yield "subject", record["id"]
        if record["kind"] == "organisation":
            yield "organisation", record["id"]


def _texts(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for name, each in value.items():
            if name not in _NOT_WORDS:
                yield from _texts(each)
    elif isinstance(value, list):
        for each in value:
            yield from _texts(each)


@lru_cache(maxsize=_CACHED)
def _words(text: str) -> frozenset[str]:
    """Each word as it stands, and its pieces: ``gpt-5.5-cyber``, and ``gpt``, ``5``, ``cyber``."""
    found = {word[:_MAX_WORD] for word in _bare(_WORD.findall(text.lower())) if word}
    return frozenset(found | {piece for word in found for piece in _PIECE.findall(word)})


def _bare(words: list[str]) -> list[str]:
    """Without what ends a sentence or a clause."""
    return [word.strip(".:") for word in words]
