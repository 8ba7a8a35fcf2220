"""Somebody of the staff, signed in to the console of a real gateway."""

from __future__ import annotations

import re
from typing import Any

import httpx

from tests.support.gate import Gate

STAFF = {
    "aud": ("auditor",),
    "rev": ("reviewer",),
    "app": ("approver",),
    "ope": ("operator",),
    "adm": ("admin",),
}


async def hire(gate: Gate) -> None:
    """One member of the staff for each role, and one with none."""
    for name, roles in STAFF.items():
        await gate.member(name, 0, roles=list(roles))
    await gate.member("nobody", 0)


async def link(gate: Gate, member: str) -> str:
    made = await gate.control.post(
        "/staff/link", {"member": member, "actor": "test", "reason": "a test signs in"}
    )
    return str(made["url"])


class Reader:
    """A client with a session, which sends forms as a browser does."""

    def __init__(self, gate: Gate) -> None:
        self.gate = gate
        self.http = httpx.AsyncClient(base_url=gate.console_url)
        self.csrf = ""

    async def sign_in(self, member: str) -> Reader:
        url = await link(self.gate, member)
        page = await self.http.get(url)
        assert page.status_code == 200, page.text
        answer = await self.http.post("/sign-in", data={"token": url.rpartition("/")[2]})
        assert answer.status_code == 303, answer.text
        self.csrf = re.search(r'name="csrf" value="([^"]+)"', await self.read("/me"))[1]
        return self

    async def get(self, path: str, **options: Any) -> httpx.Response:
        return await self.http.get(path, **options)

    async def read(self, path: str) -> str:
        answer = await self.http.get(path)
        assert answer.status_code == 200, (path, answer.status_code, answer.text)
        return answer.text

    async def post(self, path: str, **form: Any) -> httpx.Response:
        return await self.http.post(path, data={"csrf": self.csrf} | form)
