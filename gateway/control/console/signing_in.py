"""Signing in and out, and the front page."""

from __future__ import annotations

from typing import Annotated

from fastapi import FastAPI, Form, Request
from fastapi.responses import Response

from gateway.control.console.guard import Cookie, Denied
from gateway.control.console.pages import Pages
from gateway.control.staff import Staff

__all__ = ["sign_in_pages"]


def sign_in_pages(app: FastAPI, pages: Pages, staff: Staff, cookie: Cookie) -> None:
    """Add them to the console."""

    @app.get("/")
    async def front(request: Request) -> Response:
        if request.state.session is not None:
            return pages.back("/me")
        return pages.page(request, "front")

    @app.get("/me")
    async def me(request: Request) -> Response:
        return pages.page(request, "me")

    @app.get("/sign-in/{token}")
    async def link(request: Request, token: str) -> Response:
        member = staff.sessions.owner_of(token)
        if member is None:
            raise _spent()
        return pages.page(request, "sign_in", token=token, member=member, name=staff.name(member))

    @app.post("/sign-in")
    async def sign_in(request: Request, token: Annotated[str, Form(max_length=200)]) -> Response:
        opened = await staff.sign_in(token)
        if opened is None:
            raise _spent()
        if request.state.session is not None:
            await staff.sign_out(request.state.session)
        answer = pages.back("/me")
        answer.headers["set-cookie"] = cookie.set(opened[0])
        return answer

    @app.post("/sign-out")
    async def sign_out(request: Request) -> Response:
        await staff.sign_out(request.state.session)
        answer = pages.back("/")
        answer.headers["set-cookie"] = cookie.clear()
        return answer


def _spent() -> Denied:
    return Denied(
        403,
        "This link has been used, or its quarter of an hour is over.",
        "Ask for a new one: sluicegate staff link",
    )
