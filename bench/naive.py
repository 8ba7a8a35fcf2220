"""What one writes first: FastAPI in front, httpx behind, no checks at all.

``UPSTREAM=http://… python -m uvicorn bench.naive:app``
"""

from __future__ import annotations

import os
from collections.abc import AsyncIterator

import httpx
from fastapi import FastAPI, Request, Response
from fastapi.responses import StreamingResponse

app = FastAPI()
client = httpx.AsyncClient(
    base_url=os.environ["UPSTREAM"],
    timeout=60,
    limits=httpx.Limits(max_connections=1000, max_keepalive_connections=1000),
)


@app.post("/{path:path}")
async def forward(path: str, request: Request) -> Response:
    """Send the body on, and the answer back."""
    body = await request.json()
    sent = client.build_request(
        "POST", f"/{path}", json=body, headers={"x-api-key": request.headers["x-api-key"]}
    )
    answer = await client.send(sent, stream=True)
    media_type = answer.headers["content-type"]
    if not body.get("stream"):
        return Response(await answer.aread(), answer.status_code, media_type=media_type)

    async def pieces() -> AsyncIterator[bytes]:
        try:
            async for piece in answer.aiter_raw():
                yield piece
        finally:
            await answer.aclose()

    return StreamingResponse(pieces(), answer.status_code, media_type=media_type)
