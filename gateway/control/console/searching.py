"""Searching the record, and taking along what was found."""

from __future__ import annotations

import csv
import hashlib
import io
import time
from typing import Annotated, Any
from urllib.parse import urlencode

from fastapi import FastAPI, Query, Request
from fastapi.responses import Response

from gateway.audit.records import ReviewExported, ReviewSearched
from gateway.audit.search import MAX_NS, Hit
from gateway.audit.search import Query as Asked
from gateway.audit.terms import DIMENSIONS, effect_of
from gateway.control.console.guard import Denied
from gateway.control.console.pages import Pages
from gateway.control.console.reading import NS, Reading
from gateway.control.console.records import download
from gateway.control.staff import Staff

__all__ = ["search_pages"]

PAGE = 50
EXPORTED = 5_000
_DAYS = (1, 7, 30, 365)

Json = dict[str, Any]


def search_pages(app: FastAPI, pages: Pages, staff: Staff, reading: Reading) -> None:
    """Add them to the console."""

    @app.get("/search")
    async def search(
        request: Request,
        q: Annotated[str, Query(max_length=500)] = "",
        days: Annotated[int, Query(ge=1, le=3660)] = 30,
        before: Annotated[int, Query(ge=0, lt=1 << 63)] = MAX_NS,
    ) -> Response:
        problem, hits = "", []
        try:
            asked = _asked(q, days)
            hits = await reading.hits(asked, before=before, limit=PAGE + 1)
        except ValueError as error:
            problem = str(error)
        else:
            me = request.state.session.member
            await staff.record(
                ReviewSearched(
                    actor=me,
                    query=q,
                    hits=min(len(hits), PAGE),
                    since=str(asked.since),
                    before="" if before == MAX_NS else str(before),
                )
            )
        following = (
            "/search?" + urlencode({"q": q, "days": days, "before": hits[PAGE - 1].id})
            if len(hits) > PAGE
            else ""
        )
        return pages.page(
            request,
            "search",
            status=422 if problem else 200,
            q=q,
            days=days,
            choices=_DAYS,
            hits=[(hit, _line(hit)) for hit in hits[:PAGE]],
            following=following,
            problem=problem,
            dimensions=DIMENSIONS,
            export="/export?" + urlencode({"q": q, "days": days}),
        )

    @app.get("/export")
    async def export(
        request: Request,
        q: Annotated[str, Query(max_length=500)] = "",
        days: Annotated[int, Query(ge=1, le=3660)] = 30,
    ) -> Response:
        try:
            asked = _asked(q, days)
        except ValueError as error:
            raise Denied(422, str(error), "Mend the search first.") from None
        hits = await reading.hits(asked, limit=EXPORTED + 1)
        if len(hits) > EXPORTED:
            raise Denied(
                422,
                f"More than {EXPORTED:,} records match.",
                "Narrow it, or use `sluicegate audit export`, which takes any number, with proofs.",
            )
        body = b"".join(hit.raw + b"\n" for hit in reversed(hits))
        await staff.record(
            ReviewExported(
                actor=request.state.session.member,
                query=q,
                since=str(asked.since),
                form="ndjson",
                records=len(hits),
                sha256=hashlib.sha256(body).hexdigest(),
            )
        )
        return download(body, "application/x-ndjson", "records.ndjson")


def _asked(q: str, days: int) -> Asked:
    """What was typed, quotes keeping a value together.

    Raises:
        ValueError: it cannot be asked.
    """
    since = time.time_ns() - days * 86_400 * NS
    try:
        words = next(csv.reader(io.StringIO(q), delimiter=" ", skipinitialspace=True), [])
    except csv.Error:
        raise ValueError("a line break stands in it") from None
    return Asked.parse([word for word in words if word], since=since, until=None)


def _line(hit: Hit) -> Json:
    """What a search shows of a record."""
    record = hit.json()
    about = hit.intent or record
    model = about.get("model", {})
    reasons = record.get("decision", {}).get("reasons", [])
    why = ", ".join(f"{each['code']} ({each['rule']})" for each in reasons)
    return {
        "time": record["time"],
        "at": int(record["hlc"]),
        "place": f"{hit.shard}#{hit.seq}",
        "type": record["type"],
        "who": about.get("subject", {}).get("id", "") or record.get("actor", ""),
        "about": model.get("requested", "")
        or record.get("id", "")
        or record.get("ref", "")
        or record.get("query", ""),
        "effect": effect_of(record) or record.get("status", "") or record.get("op", ""),
        "why": why or record.get("reason", "") or record.get("finding", ""),
    }
