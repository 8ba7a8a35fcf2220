"""The queue: which calls a reviewer should look at first, and why.

What was refused or went wrong, what the policy asked to be reviewed, findings of the gateway about
itself, and of the calls that were let through a sample: of every model, however rarely it is used
(stratified). Sorted by a risk that is a plain sum, each summand said in words.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any

from msgspec import Struct

from gateway.audit.search import Query, Search
from gateway.audit.terms import LOTS, Term, draw_of
from gateway.control.reviewing import Reviews
from gateway.control.runs import Call, calls_of, runs_of

__all__ = ["Item", "queue"]

HOUR_NS = 3_600_000_000_000
EACH = 60
"""Of each caller and kind, the latest so many that are not settled are shown."""
LOOKED = 1_200
"""And so many are looked at for them."""
CALLERS = 2_000
"""Callers with calls in the time; each is asked for by himself, so that nobody's flood hides
another's one call."""
SAMPLED = 3
"""Calls of each model that were let through."""
URGENT = 40
"""From this risk on it should be looked at within a day, else within three."""

_FLAGS: tuple[tuple[Term, int, str], ...] = (
    (("status", "policy_cut"), 40, "access was withdrawn while it ran"),
    (("review", "asked"), 30, "the policy asks for a review"),
    (("status", "interrupted"), 15, "the gateway died during it"),
    (("effect", "deny"), 10, "denied by policy"),
    (("effect", "step_up"), 10, "a stronger sign-in was wanted"),
    (("effect", "require_approval"), 10, "an approval was wanted"),
    (("effect", "refused"), 4, "refused by a limit or for its form"),
)
FINDINGS: dict[str, tuple[int, str]] = {
    "registry.tampered": (80, "the registry is not what the log recorded"),
    "policy.engine_error": (40, "the policy engine failed"),
    "log.recovered": (30, "the log was recovered after a crash"),
    "policy.rejected": (20, "a policy revision was refused"),
}
"""Records that are nobody's call and that somebody should look at."""
_SAMPLE = (5, "drawn from the calls that were let through")
_MANY = 6
"""Added for each doubling of the number of calls."""


class Item(Struct, frozen=True):
    """One caller's flagged calls of one run, or a finding that is nobody's call.

    ``since`` and ``until`` are clocks, of the first and the last; ``risk`` is the sum of ``why``.
    """

    subject: str
    credential: str
    organisation: str
    since: int
    until: int
    time: str
    record: str
    calls: int
    models: tuple[str, ...]
    risk: int
    why: tuple[tuple[str, int], ...]
    assignee: str
    due: int

    @property
    def capped(self) -> bool:
        """Whether there may be more calls than are counted."""
        return self.calls >= EACH

    @property
    def urgent(self) -> bool:
        """Whether a day is what there is."""
        return self.risk >= URGENT


def queue(search: Search, reviews: Reviews, *, since: int, until: int) -> list[Item]:
    """What waits, riskiest first, then oldest.

    Args:
        search: over an index that is up to date.
        reviews: what was settled; it does not wait any more.
        since: clock, included.
        until: clock, not included.

    Raises:
        IndexDamaged, LogCorrupt, OSError: the logs cannot be read.
    """
    items = [*_findings(search, reviews, since, until), *_runs(search, reviews, since, until)]
    return sorted(items, key=lambda item: (-item.risk, item.since))


def _findings(search: Search, reviews: Reviews, since: int, until: int) -> Iterator[Item]:
    for kind, (weight, words) in FINDINGS.items():
        query = Query(terms=(("type", kind),), since=since, until=until)
        for hit in search.hits(query, limit=EACH):
            record = hit.json()
            at = int(record["hlc"])
            if not reviews.settled("", kind, at, at):
                place = f"{hit.shard}#{hit.seq}"
                call = (at, record["time"], place, "")
                yield _item(reviews, ("", kind, ""), [call], [(words, weight)])


def _runs(search: Search, reviews: Reviews, since: int, until: int) -> Iterator[Item]:
    flags: dict[str, list[tuple[str, int]]] = {}
    calls: dict[str, Call] = {}
    for found, words, weight in _flagged(search, reviews, since, until):
        for call in found:
            calls[call.record] = call
            flags.setdefault(call.record, []).append((words, weight))
    callers: dict[tuple[str, str], list[Call]] = {}
    for call in sorted(calls.values(), key=lambda each: each.at):
        callers.setdefault((call.subject, call.credential), []).append(call)
    for (subject, credential), theirs in callers.items():
        for run in runs_of(theirs):
            why = dict(sorted(flag for call in run for flag in flags[call.record]))
            summands = sorted(why.items(), key=lambda each: -each[1])
            more = _MANY * int(math.log2(len(run)))
            if more:
                summands.append((f"{len(run)} calls", more))
            shown = [(call.at, call.time, call.record, call.model) for call in run]
            yield _item(reviews, (subject, credential, run[0].organisation), shown, summands)


def _item(
    reviews: Reviews,
    who: tuple[str, str, str],
    calls: Sequence[tuple[int, str, str, str]],
    why: Sequence[tuple[str, int]],
) -> Item:
    subject, credential, organisation = who
    first, last = calls[0], calls[-1]
    risk = sum(weight for _, weight in why)
    return Item(
        subject=subject,
        credential=credential,
        organisation=organisation,
        since=first[0],
        until=last[0],
        time=last[1],
        record=first[2],
        calls=len(calls),
        models=tuple(sorted({model for *_, model in calls if model})),
        risk=risk,
        why=tuple(why),
        assignee=reviews.assignee(subject, credential, first[0]),
        due=first[0] + (24 if risk >= URGENT else 72) * HOUR_NS,
    )


def _flagged(
    search: Search, reviews: Reviews, since: int, until: int
) -> Iterator[tuple[list[Call], str, int]]:
    everyone = search.counts("subject", Query(since=since, until=until), top=CALLERS)
    for caller in everyone:
        for term, weight, words in _FLAGS:
            dimension, value = term
            if dimension != "effect" or value in caller.effects:
                query = Query(
                    terms=(term, ("subject", caller.value), ("type", "access")),
                    since=since,
                    until=until,
                )
                yield _waiting(search, reviews, query), words, weight
    weight, words = _SAMPLE
    for model in search.known("authorised", top=CALLERS):
        drawn = _sample(search, model, since, until)
        yield [call for call in drawn if not _settled(reviews, call)], words, weight


def _waiting(search: Search, reviews: Reviews, query: Query) -> list[Call]:
    """The latest calls that match and are not settled; an outcome stands for its intent."""
    waiting: list[Call] = []
    before, looked = query.until, 0
    while len(waiting) < EACH and looked < LOOKED:
        hits = search.hits(query, before=before, limit=EACH)
        found: dict[tuple[str, int], tuple[str, dict[str, Any]]] = {}
        for hit in hits:
            record = hit.json()
            found[hit.shard, hit.seq] = (hit.shard, record)
            if hit.intent is not None:
                found[hit.shard, record["parent"]] = (hit.shard, hit.intent)
        waiting += [call for call in calls_of(found.values()) if not _settled(reviews, call)]
        if len(hits) < EACH:
            break
        before, looked = hits[-1].id, looked + len(hits)
    return waiting[:EACH]


def _settled(reviews: Reviews, call: Call) -> bool:
    return reviews.settled(call.subject, call.credential, call.at, call.end)


def _sample(search: Search, model: str, since: int, until: int) -> list[Call]:
    """The lowest draws among a model's calls: of the smallest lot that holds enough of them."""
    allowed: tuple[Term, ...] = (("authorised", model), ("type", "access.intent"))
    for lot in sorted(LOTS, key=LOTS.__getitem__):
        query = Query(terms=(*allowed, ("drawn", lot)), since=since, until=until)
        hits = search.hits(query, limit=EACH)
        if len(hits) >= SAMPLED:
            break
    else:
        hits = search.hits(Query(terms=allowed, since=since, until=until), limit=EACH)
    drawn = sorted(hits, key=lambda hit: draw_of(hit.json()))[:SAMPLED]
    return calls_of((hit.shard, hit.json()) for hit in drawn)
