"""The console listener. Until staff can sign in it shows one page that tells nobody anything that
an outsider may not know: whether the gateway is ready, and where to go on."""

from __future__ import annotations

from fastapi import FastAPI
from fastapi.responses import HTMLResponse

from gateway import __version__
from gateway.control.status import Status

__all__ = ["console_app"]

_HEADERS = {
    "content-security-policy": "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; "
    "form-action 'none'; frame-ancestors 'none'",
    "referrer-policy": "no-referrer",
    "x-content-type-options": "nosniff",
    "cache-control": "no-store",
}

_PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>Sluicegate: {state}</title>
<style>
body {{ font: 16px/1.5 system-ui, sans-serif; color: #1b1f24; background: #f6f8fa;
       margin: 0; display: grid; place-items: center; min-height: 100vh; }}
main {{ background: #fff; border: 1px solid #d0d7de; border-radius: 8px; padding: 2rem 2.5rem;
       max-width: 34rem; }}
h1 {{ margin: 0 0 .5rem; font-size: 1.4rem; }}
.state {{ font-weight: 600; color: {colour}; }}
code {{ background: #eef1f4; padding: .1rem .3rem; border-radius: 4px; }}
</style>
</head>
<body>
<main>
<h1>Sluicegate</h1>
<p>This gateway is <span class="state">{state}</span>.</p>
<p>Operators: <code>sluicegate status</code> says what is wrong, whom it reaches and what to do.
The record is read with <code>sluicegate audit tail</code> and proved with
<code>sluicegate-verify</code>.</p>
<p>Version {version}.</p>
</main>
</body>
</html>
"""


def console_app(status: Status) -> FastAPI:
    """The FastAPI application of the console listener."""
    app = FastAPI(title="Sluicegate console", docs_url=None, redoc_url=None, openapi_url=None)

    @app.get("/")
    async def front() -> HTMLResponse:
        ready = status.ready
        page = _PAGE.format(
            state="ready" if ready else "not ready",
            colour="#116329" if ready else "#a40e26",
            version=__version__,
        )
        return HTMLResponse(page, headers=_HEADERS)

    return app
