"""A script for ``Upstream``: it answers each of the wires as a provider does, streamed or whole."""

from __future__ import annotations

import json

from tests.support.upstream import (
    Received,
    Reply,
    chat_answer,
    chat_events,
    message,
    message_events,
    response,
    response_events,
)

EMBEDDING = {
    "object": "list",
    "data": [{"object": "embedding", "index": 0, "embedding": [0.25, -0.5]}],
    "model": "text-embedding-4",
    "usage": {"prompt_tokens": 3, "total_tokens": 3},
}
TARGETS = {
    "chat": "/v1/chat/completions",
    "responses": "/v1/responses",
    "messages": "/v1/messages",
    "embeddings": "/v1/embeddings",
    "count_tokens": "/v1/messages/count_tokens",
}
MODELS = {
    "chat": "gpt-5.5",
    "responses": "gpt-5.5",
    "messages": "opus-4.8",
    "embeddings": "text-embedding-4",
    "count_tokens": "opus-4.8",
}
"""On each wire a model that any member may call."""
BOUNDS = {"chat": "max_tokens", "responses": "max_output_tokens", "messages": "max_tokens"}
"""What bounds the answer. Where none stands, the model's own bound is reserved: 128,000 tokens."""
EVENTS = {"chat": chat_events, "responses": response_events, "messages": message_events}


def body_for(wire: str, model: str = "", **fields: object) -> bytes:
    """The smallest body of a wire; ``fields`` are added to it."""
    asked: dict[str, object] = {"model": model or MODELS[wire]}
    if wire in ("responses", "embeddings"):
        asked["input"] = "hi"
    else:
        asked["messages"] = [{"role": "user", "content": "hi"}]
    if wire in BOUNDS:
        asked[BOUNDS[wire]] = 50
    return json.dumps({**asked, **fields}).encode()


def events_for(wire: str, asked: dict[str, object]) -> list[bytes]:
    """What a provider streams for a body."""
    if wire == "chat":
        options = asked.get("stream_options")
        usage = isinstance(options, dict) and bool(options.get("include_usage"))
        return chat_events(usage=usage, model=str(asked["model"]))
    return EVENTS[wire](model=str(asked["model"]))


def wire_of(target: str) -> str:
    path = target.partition("?")[0]
    return next(wire for wire, template in TARGETS.items() if template == path)


def whole_answer(wire: str, model: str) -> bytes:
    """What a provider answers in one piece."""
    if wire == "chat":
        return chat_answer(model=model)
    document = {
        "responses": response(model=model),
        "messages": message(model=model),
        "embeddings": EMBEDDING,
        "count_tokens": {"input_tokens": 42},
    }[wire]
    return json.dumps(document).encode()


async def provider(received: Received, reply: Reply) -> None:
    """Answer as asked, every event in a chunk of its own."""
    wire, asked = wire_of(received.target), received.json()
    if not asked.get("stream"):
        await reply.whole(whole_answer(wire, asked["model"]), headers={"x-request-id": "up-1"})
        return
    await reply.start_stream()
    for piece in events_for(wire, asked):
        await reply.chunk(piece)
    await reply.end()
