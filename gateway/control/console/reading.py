"""The record, as pages ask for it: off the event loop, one question at a time."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from typing import TypeVar

from gateway.audit.read import LogReader
from gateway.audit.seal import SealError
from gateway.audit.search import MAX_NS, Hit, Query, Search
from gateway.control.desk import Item, queue
from gateway.control.explain import Explained, NotExplained, explain
from gateway.control.record import consult
from gateway.control.reviewing import Reviews
from gateway.control.runs import Call, calls_of, run_at
from gateway.policy.findings import BundleError
from gateway.policy.kept_revisions import RevisionNotKept, kept_revision
from gateway.state import StateDirectory

__all__ = ["NS", "RUN_MOST", "Reading"]

NS = 1_000_000_000
RUN_SPAN_NS = 24 * 3600 * NS
RUN_MOST = 1_000
"""Records of a run that are shown."""

Answer = TypeVar("Answer")


class Reading:
    """Questions to the record of one state directory.

    Each raises ``RecordUnreadable``, ``LogCorrupt`` or ``OSError`` where it cannot be read.

    Args:
        state: the state directory.
        subject_key: of a member's sealed facts.
    """

    def __init__(self, state: StateDirectory, subject_key: Callable[[str], bytes | None]) -> None:
        self.state = state
        self._subject_key = subject_key
        self._one_at_a_time = asyncio.Lock()

    async def ask(self, question: Callable[[Search], Answer]) -> Answer:
        """The answer to a question, from an index that is up to date."""
        async with self._one_at_a_time:
            return await asyncio.to_thread(
                consult, self.state, lambda index, logs: question(Search(index, logs))
            )

    async def hits(self, query: Query, *, before: int = MAX_NS, limit: int = 50) -> list[Hit]:
        """The latest records that match, each proved just now."""
        return await self.ask(lambda search: search.hits(query, before=before, limit=limit))

    async def record(self, shard: str, seq: int) -> Hit | None:
        """One record, proved just now."""
        return await self.ask(lambda search: search.at(shard, seq))

    async def explained(self, hit: Hit) -> Explained:
        """A record's decision, made again from its facts by the revision of then.

        Raises:
            NotExplained: it cannot be made again; says why.
        """
        return await asyncio.to_thread(self._explained, hit)

    def _explained(self, hit: Hit) -> Explained:
        record = hit.json()
        key = self._subject_key(record.get("subject", {}).get("id", ""))
        entry = LogReader(self.state.log(hit.shard)).find(hit.seq)
        if "decision" not in record or "facts" not in record or entry is None:
            raise NotExplained("the record holds no decision with its facts")
        if key is None:
            raise NotExplained("the key of its facts was destroyed: nobody can read them any more")
        try:
            bundle = kept_revision(self.state.revisions, record["decision"]["revision"])
            return explain(record, entry.facts(key), bundle)
        except (SealError, RevisionNotKept, BundleError) as error:
            raise NotExplained(str(error)) from None

    async def queue(self, reviews: Reviews, days: int) -> list[Item]:
        """What waits at the desk."""
        now = time.time_ns()
        since = now - days * RUN_SPAN_NS
        return await self.ask(
            lambda search: queue(search, reviews, since=since, until=now + RUN_SPAN_NS)
        )

    async def hours(self, days: int) -> tuple[int, dict[int, dict[str, int]]]:
        """The number of the first hour, and calls by effect of each until now."""
        now = time.time_ns()
        since = now - days * RUN_SPAN_NS
        found = await self.ask(lambda search: search.hours(since, now + 1))
        return -(-since // (3600 * NS)), found

    async def run(self, subject: str, credential: str, at: int) -> Sequence[Call]:
        """The run of a credential's calls that holds a clock."""
        terms = (("subject", subject), ("credential", credential), ("type", "access"))

        def around(search: Search) -> list[Hit]:
            earlier = Query(terms=terms, since=at - RUN_SPAN_NS, until=at)
            found = search.hits(earlier, limit=RUN_MOST // 2)
            # Hits come latest first: the time after ``at`` is shortened until all of it fits, or a
            # flood of later calls would push out the one that is asked for.
            span = RUN_SPAN_NS
            while True:
                later = Query(terms=terms, since=at, until=at + span)
                hits = search.hits(later, limit=RUN_MOST // 2)
                if len(hits) < RUN_MOST // 2 or span <= 1:
                    return [*found, *hits]
                span //= 4

        hits = await self.ask(around)
        return run_at(calls_of((hit.shard, hit.json()) for hit in hits), at)
