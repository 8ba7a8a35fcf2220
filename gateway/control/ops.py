"""The ops listener: metrics of every process, probes, and the policy bundle for OPA to pull."""

from __future__ import annotations

import asyncio
import hmac

from fastapi import FastAPI, HTTPException, Request
from fastapi.responses import PlainTextResponse, Response

from gateway.control.plane import ControlPlane
from gateway.control.status import Status
from gateway.settings import Policy
from gateway.telemetry.metrics import CONTENT_TYPE_LATEST, exposition

__all__ = ["ops_app"]

BUNDLE_ROUTE = "/bundles/sluicegate.tar.gz"
UNAUTHORIZED = 401
NOT_FOUND = 404
NOT_READY = 503
NOT_MODIFIED = 304


def ops_app(plane: ControlPlane, status: Status, policy: Policy) -> FastAPI:
    """The FastAPI application of the ops listener; it changes nothing.

    The bundle names every model, embargoed ones too. It is there only where an OPA has to pull it,
    and only for who presents OPA's token, if one is set.
    """
    app = FastAPI(title="Sluicegate ops", docs_url=None, redoc_url=None, openapi_url=None)

    @app.get("/livez")
    async def livez() -> PlainTextResponse:
        return PlainTextResponse("alive\n")

    @app.get("/readyz")
    async def readyz() -> PlainTextResponse:
        if status.ready:
            return PlainTextResponse("ready\n")
        report = await status.report()
        lines = [problem["what"] for problem in report["problems"]] or ["no data worker is ready"]
        return PlainTextResponse("\n".join(["not ready", *lines, ""]), status_code=NOT_READY)

    @app.get("/metrics")
    async def metrics() -> Response:
        snapshots: dict[str, bytes | None] = {
            worker.hello.shard: worker.report.metrics if worker.report is not None else None
            for worker in plane.workers
        }
        _gauge_exporters(plane, status)
        snapshots["control"] = plane.metrics.snapshot()
        text = await asyncio.to_thread(exposition, snapshots)
        return Response(text, media_type=CONTENT_TYPE_LATEST)

    @app.get(BUNDLE_ROUTE)
    async def bundle(request: Request) -> Response:
        if policy.engine != "opa":
            raise HTTPException(NOT_FOUND)
        if policy.opa.token is not None and not _presents(
            request, policy.opa.token.get_secret_value()
        ):
            raise HTTPException(UNAUTHORIZED, headers={"www-authenticate": "Bearer"})
        if not plane.archive:
            return PlainTextResponse("no policy is active\n", status_code=NOT_READY)
        etag = f'"{plane.archive_revision}"'
        if request.headers.get("if-none-match") == etag:
            return Response(status_code=NOT_MODIFIED, headers={"etag": etag})
        return Response(plane.archive, media_type="application/gzip", headers={"etag": etag})

    return app


def _gauge_exporters(plane: ControlPlane, status: Status) -> None:
    for each in status.exporters():
        plane.metrics.exporter(
            each.name, each.lag_records, each.lag_seconds, each.failures, each.replaced
        )


def _presents(request: Request, token: str) -> bool:
    """Whether the request has the bearer token; takes the same time for every wrong one."""
    scheme, _, presented = request.headers.get("authorization", "").partition(" ")
    right = hmac.compare_digest(presented.strip().encode(), token.encode())
    return right and scheme.lower() == "bearer"
