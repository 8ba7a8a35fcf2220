"""The control API, on a local socket that only the operator's own user may open.

Whoever can open the socket is the operator: the actor of a change is the name that the command
gives, recorded as such. Staff with roles of their own come with the console.
"""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated, Any

import msgspec
from fastapi import Body, FastAPI, Request
from fastapi.responses import Response

from gateway.control.plane import ControlPlane
from gateway.control.staff import Staff
from gateway.control.status import Status
from gateway.core.protocols import LogUnavailable
from gateway.registry.changes import Change, ChangeRefused
from gateway.registry.registry import RegistryUnavailable
from gateway.registry.rows import TYPES

__all__ = ["control_api"]

UNAVAILABLE = 503
REFUSED = 409
NOT_FOUND = 404
INVALID = 422


class ChangeRequest(msgspec.Struct, forbid_unknown_fields=True):
    """One change with its author and his reason."""

    change: Change
    actor: str
    reason: str


class ActivateRequest(msgspec.Struct, forbid_unknown_fields=True):
    """Read the policy source again."""

    actor: str
    reason: str


class LinkRequest(msgspec.Struct, forbid_unknown_fields=True):
    """A link that signs a member of the staff in once."""

    member: str
    actor: str
    reason: str


class PruneRequest(msgspec.Struct, forbid_unknown_fields=True):
    """Remove sealed content whose time is over."""

    actor: str
    reason: str


def control_api(plane: ControlPlane, status: Status, staff: Staff, console_url: str) -> FastAPI:
    """The FastAPI application of the control socket."""
    api = FastAPI(title="Sluicegate control", docs_url=None, redoc_url=None, openapi_url=None)
    _say_what_is_wrong(api)

    @api.get("/status")
    async def get_status() -> Response:
        return _json(await status.report())

    @api.post("/changes")
    async def post_change(body: Annotated[bytes, Body()]) -> Response:
        asked = msgspec.json.decode(body, type=ChangeRequest)
        return _json(
            asdict(await plane.change(asked.change, actor=asked.actor, reason=asked.reason))
        )

    @api.post("/policy/activate")
    async def post_activate(body: Annotated[bytes, Body()]) -> Response:
        asked = msgspec.json.decode(body, type=ActivateRequest)
        return _json(asdict(await plane.activate_current(actor=asked.actor, reason=asked.reason)))

    @api.post("/staff/link")
    async def post_link(body: Annotated[bytes, Body()]) -> Response:
        asked = msgspec.json.decode(body, type=LinkRequest)
        token, expires_at = await staff.make_link(
            asked.member, actor=asked.actor, reason=asked.reason
        )
        url = f"{console_url}/sign-in/{token}"
        return _json({"member": asked.member, "url": url, "expires_at": expires_at})

    @api.post("/content/prune")
    async def post_prune(body: Annotated[bytes, Body()]) -> Response:
        asked = msgspec.json.decode(body, type=PruneRequest)
        return _json(asdict(await plane.prune_content(actor=asked.actor, reason=asked.reason)))

    @api.get("/registry/{kind}")
    async def get_registry(kind: str) -> Response:
        if kind not in TYPES:
            return _problem(NOT_FOUND, f"There is no {kind}.", f"One of: {', '.join(TYPES)}.")
        return _json(plane.registry.snapshot.entities(kind))

    @api.get("/rules")
    async def get_rules() -> Response:
        return _json(status.rules())

    return api


def _say_what_is_wrong(api: FastAPI) -> None:
    """Every refusal of the rooms below, as a problem with its remedy."""

    @api.exception_handler(ChangeRefused)
    async def refused(_request: Request, error: ChangeRefused) -> Response:
        return _problem(REFUSED, error.message, error.remedy)

    @api.exception_handler(LogUnavailable)
    async def log_failed(_request: Request, error: LogUnavailable) -> Response:
        return _problem(
            UNAVAILABLE,
            f"The change was not made: it cannot be recorded ({error}).",
            "Free the disk or mend it, then start the gateway again.",
        )

    @api.exception_handler(OSError)
    async def disk_failed(_request: Request, error: OSError) -> Response:
        return _problem(
            UNAVAILABLE,
            f"{error.filename}: {error.strerror}",
            "Free the disk or mend it, then try again.",
        )

    @api.exception_handler(RegistryUnavailable)
    async def registry_failed(_request: Request, error: RegistryUnavailable) -> Response:
        return _problem(UNAVAILABLE, str(error), "See `sluicegate status` for what to do.")

    @api.exception_handler(msgspec.DecodeError)
    async def invalid(_request: Request, error: msgspec.DecodeError) -> Response:
        return _problem(INVALID, str(error), "Send the fields that this version documents.")


def _json(value: Any, status: int = 200) -> Response:
    return Response(msgspec.json.encode(value), status_code=status, media_type="application/json")


def _problem(status: int, title: str, remedy: str) -> Response:
    """RFC 9457, with what to do as ``remedy``."""
    response = _json({"title": title, "remedy": remedy, "status": status}, status)
    response.headers["content-type"] = "application/problem+json"
    return response
