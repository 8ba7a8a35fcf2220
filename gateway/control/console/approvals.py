"""Approvals: what waits for another person, and the opening of sealed content."""

from __future__ import annotations

import time
from typing import Annotated, Any

from fastapi import FastAPI, Form, Request
from fastapi.responses import Response
from pydantic import BaseModel, Field

from gateway.audit.content import Part
from gateway.audit.search import Query
from gateway.control.console.forms import MAX_TEXT, said
from gateway.control.console.guard import Denied
from gateway.control.console.pages import Pages
from gateway.control.console.reading import Reading
from gateway.control.reveal import Reveals
from gateway.control.staff import Staff
from gateway.core.approval import Approval, State

__all__ = ["approval_pages"]

Name = Annotated[str, Field(max_length=100)]


class Asking(BaseModel):
    """For one part of a call."""

    shard: Name
    seq: Annotated[int, Field(ge=0, lt=1 << 63)]
    part: Part
    case: Name = ""
    text: Annotated[str, Field(max_length=MAX_TEXT * 4)] = ""


class Voting(BaseModel):
    """On what has a digest."""

    digest: Name
    key: Annotated[str, Field(max_length=200)] = ""
    text: Annotated[str, Field(max_length=MAX_TEXT * 4)] = ""


class Opening(BaseModel):
    """With the reviewer's key."""

    key: Annotated[str, Field(max_length=200)]


def approval_pages(  # noqa: C901 - one page a function
    app: FastAPI, pages: Pages, staff: Staff, reading: Reading, reveals: Reveals
) -> None:
    """Add them to the console."""

    def found(name: str) -> Approval:
        approval = staff.approvals.all.get(name)
        if approval is None:
            raise Denied(404, "There is no such approval.", "See the list of approvals.")
        return approval

    async def record_at(place: str) -> dict[str, Any]:
        shard, _, seq = place.partition("#")
        hit = await reading.record(shard, int(seq))
        if hit is None:
            raise Denied(404, "There is no such record.", "Search for it.")
        return hit.json()

    @app.get("/approvals")
    async def approvals(request: Request) -> Response:
        now = time.time()
        listed = sorted(staff.approvals.all.values(), key=lambda each: -each.asked_at)
        return pages.page(
            request,
            "approvals",
            approvals=[(each, each.state(now), reveals.shown(each)) for each in listed[:200]],
        )

    @app.get("/approvals/{approval}")
    async def one(request: Request, approval: str) -> Response:
        shown, now = found(approval), time.time()
        return pages.page(
            request,
            "approval",
            approval=shown,
            state=shown.state(now),
            states=State,
            about=reveals.shown(shown),
            names={each: staff.name(each) for each in shown.eligible},
            minutes=max(0, int((shown.lasts_until - now) // 60)),
        )

    @app.post("/reveals")
    async def ask(request: Request, form: Annotated[Asking, Form()]) -> Response:
        why = said(form.text)
        record = await record_at(f"{form.shard}#{form.seq}")
        calls = await reading.hits(Query(name=record.get("request_id", "-")), limit=10)
        intents = [hit.json() for hit in calls if hit.shard == form.shard]
        intent = next((each for each in intents if each["type"] == "access.intent"), record)
        me = request.state.session.member
        name = await reveals.ask(me, intent, record, part=form.part, case=form.case, reason=why)
        return pages.back(f"/approvals/{name}")

    @app.post("/approvals/{approval}/approve")
    async def approve(request: Request, approval: str, form: Annotated[Voting, Form()]) -> Response:
        record = await record_at(reveals.shown(found(approval))["record"])
        me = request.state.session.member
        await reveals.approve(me, approval, form.digest, form.key, record)
        return pages.back(f"/approvals/{approval}")

    @app.post("/approvals/{approval}/refuse")
    async def refuse(request: Request, approval: str, form: Annotated[Voting, Form()]) -> Response:
        found(approval)
        why, me = said(form.text), request.state.session.member
        await reveals.refuse(me, approval, form.digest, why)
        return pages.back(f"/approvals/{approval}")

    @app.post("/approvals/{approval}/open")
    async def opened(request: Request, approval: str, form: Annotated[Opening, Form()]) -> Response:
        about = reveals.shown(found(approval))
        record = await record_at(about["record"])
        me = request.state.session.member
        content = await reveals.open(me, approval, form.key, record)
        return pages.page(
            request,
            "revealed",
            about=about,
            approval=approval,
            text=content.decode("utf-8", "replace"),
            size=len(content),
        )
