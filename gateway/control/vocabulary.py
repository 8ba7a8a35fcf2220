"""The words of people data that a policy knows, and those of a change that it does not.

A rule that finds no such word lets nobody in by it: a tier ``cyberr`` or a purpose that no model
asks for is granted, recorded, and means nothing. Such a word is not refused, because the policy
that knows it may come after; whoever wrote it is told. Pure.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

from gateway.policy.bundle import Bundle
from gateway.policy.revision import revision_of
from gateway.registry.changes import Add, Change, Set

__all__ = ["Vocabulary", "has_words", "unknown_words", "vocabulary_of"]

NAMED_AT_MOST = 12
"""So many known words are named in a warning; a catalogue may hold hundreds."""

_CLASS = re.compile(r"class:(?P<domain>.+)-(?P<level>[0-9])")
_FIELDS = frozenset({"tiers", "purposes", "licences", "agreements", "vetting", "scopes"})


@dataclass(frozen=True, slots=True)
class Vocabulary:
    """What the data files of one policy name.

    ``levels`` is the highest level by domain, ``None`` where no data file defines levels.
    ``models`` are ids in lower case, as ``credential.rego`` compares scopes with them.
    """

    levels: Mapping[str, int | None]
    purposes: frozenset[str]
    licences: frozenset[str]
    agreements: frozenset[str]
    vetting: frozenset[str]
    models: frozenset[str]


def vocabulary_of(bundle: Bundle) -> Vocabulary:
    """Read a policy's words from its tiers, purposes and catalogue.

    Raises:
        BundleError: its data is not of the shape that activation asks for.
    """
    models = revision_of(bundle).catalogue.values()
    demands = [model.requires for model in models]
    tiers = bundle.data.get("tiers", {})
    steps = [step for tier in tiers.values() for step in tier["levels"]]
    asked = [domain for model in models for domain in (*model.requires.tiers, *model.classes)]
    ids = frozenset(model.id.lower() for model in models)
    return Vocabulary(
        levels=dict.fromkeys(asked)
        | {domain: max(step["level"] for step in tier["levels"]) for domain, tier in tiers.items()},
        purposes=_all(bundle.data.get("purposes", {}), *(each.purposes for each in demands)),
        # The export licences of ``network.rego``.
        licences=_all(
            *(each.licences for each in demands),
            ["export:listed"],
            (f"export:{each}" for each in ids),
        ),
        agreements=_all(*(each.agreements for each in demands)),
        vetting=_all(
            *(each.vetting for each in demands), *(step.get("vetting", {}) for step in steps)
        ),
        models=ids,
    )


def has_words(change: Change) -> bool:
    """Whether a change says anything that a policy might not know."""
    return isinstance(change, Add | Set) and any(change.fields.get(name) for name in _FIELDS)


def unknown_words(vocabulary: Vocabulary, change: Change) -> tuple[str, ...]:
    """A warning for each word of a change that the policy does not know, with those it does.

    Args:
        vocabulary: of the active policy.
        change: one that was in order: its fields have the types of their entity.
    """
    if not isinstance(change, Add | Set):
        return ()
    fields = change.fields
    scopes = fields.get("scopes") or ()
    return (
        *_tiers(vocabulary, fields.get("tiers") or {}),
        *_strangers("purpose", fields.get("purposes") or (), vocabulary.purposes),
        *_strangers("licence", fields.get("licences") or (), vocabulary.licences),
        *_strangers("agreement", fields.get("agreements") or (), vocabulary.agreements),
        *_strangers(
            "vetting kind",
            (record["kind"] for record in fields.get("vetting") or ()),
            vocabulary.vetting,
        ),
        *_strangers(
            "model",
            (scope.removeprefix("model:") for scope in scopes if scope.startswith("model:")),
            vocabulary.models,
        ),
        *(
            warning
            for found in map(_CLASS.fullmatch, scopes)
            if found is not None
            for warning in _tiers(vocabulary, {found["domain"]: int(found["level"])})
        ),
    )


def _tiers(vocabulary: Vocabulary, tiers: Mapping[str, int | None]) -> Iterator[str]:
    """Domains and levels; ``None`` takes a domain away, which no policy need know."""
    granted = {domain: level for domain, level in tiers.items() if level is not None}
    yield from _strangers("tier domain", granted, vocabulary.levels)
    for domain, level in granted.items():
        highest = vocabulary.levels.get(domain)
        if highest is not None and level > highest:
            yield (
                f"{domain} {level} is above the highest level that the active policy defines "
                f"for {domain}, {highest}"
            )


def _strangers(what: str, words: Iterable[str], known: Iterable[str]) -> Iterator[str]:
    names = sorted(known)
    for word in words:
        if word not in names:
            yield f"the active policy knows no {what} '{word}'; {_named(names)}"


def _named(names: list[str]) -> str:
    if not names:
        return "it knows none"
    more = len(names) - NAMED_AT_MOST
    return (
        "it knows " + ", ".join(names[:NAMED_AT_MOST]) + (f" and {more} more" if more > 0 else "")
    )


def _all(*groups: Iterable[str]) -> frozenset[str]:
    return frozenset(name for group in groups for name in group)
