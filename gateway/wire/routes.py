"""The exact allow-list of (method, path): everything else is no route (K3, K11).

A path matches a template byte for byte, as sent: nothing is decoded, folded, joined or resolved, so
there is no second notion of the path that could differ. The one variable part is a model id, which
is decoded once and must look like one. What is sent on is the template, never the client's path.
"""

from __future__ import annotations

import re
from typing import Final
from urllib.parse import unquote_to_bytes

from msgspec import Struct

from gateway.core.facts import Wire
from gateway.core.reasons import Reason
from gateway.core.refusal import Refusal
from gateway.wire.dialects import Dialect, dialect_of, dialect_of_wire
from gateway.wire.headers import Fields

__all__ = ["Route", "match", "path_of"]


class Route(Struct, frozen=True):
    """Where a request goes.

    ``wire`` is ``None`` for the health routes, which take no credential and answer 200 without a
    body. ``upstream_path`` is the template with its query, for the wires that are forwarded;
    ``model_id`` is set for one model's entry.
    """

    wire: Wire | None
    dialect: Dialect
    upstream_path: str = ""
    model_id: str = ""


_CALLS: Final = {
    path.encode(): Route(wire, dialect_of_wire(wire), path)
    for path, wire in {
        "/v1/chat/completions": Wire.CHAT,
        "/v1/responses": Wire.RESPONSES,
        "/v1/embeddings": Wire.EMBEDDINGS,
        "/v1/messages": Wire.MESSAGES,
        "/v1/messages/count_tokens": Wire.COUNT_TOKENS,
    }.items()
}
_WITH_BETA: Final = frozenset({Wire.MESSAGES, Wire.COUNT_TOKENS})
_HEALTH: Final = frozenset({b"/", b"/api/hello"})
_MODELS: Final = b"/v1/models"
_MODEL_ID: Final = re.compile(rb"[A-Za-z0-9][A-Za-z0-9_.:-]*(?:/[A-Za-z0-9_:-][A-Za-z0-9_.:-]*)*\Z")
_MAX_MODEL_ID: Final = 128
_PAGING: Final = re.compile(rb"(?:limit|after_id|before_id|after|beta)=[^&]*\Z")

_NO_ROUTE: Final = Refusal(
    Reason.ROUTE_NOT_FOUND,
    "This gateway has no such route. It serves chat/completions, responses, embeddings, messages, "
    "messages/count_tokens and models under /v1.",
)
# The path is one of ours in every byte, so to say its method tells nobody anything new.
_OTHER_METHOD: Final = {
    path: Refusal(
        Reason.ROUTE_NOT_FOUND,
        f"This gateway has no such route: {path.decode()} takes {method} and no other method.",
    )
    for path, method in {**dict.fromkeys(_CALLS, "POST"), _MODELS: "GET"}.items()
}
_NO_WEBSOCKET: Final = Refusal(
    Reason.WEBSOCKET_NOT_OFFERED, "WebSocket is not offered here: send the same call as a POST."
)


def match(method: str, raw_path: bytes, query: bytes, fields: Fields) -> Route | Refusal:
    """Find the route of a request.

    Args:
        method: as sent; methods are case-sensitive (RFC 9110 section 9.1).
        raw_path: the path before any decoding, without the query.
        query: the query string without its question mark.
        fields: for ``Upgrade``, and to tell whose model list is asked for.

    Returns:
        The route, or why there is none: ``ROUTE_NOT_FOUND``, ``WEBSOCKET_NOT_OFFERED``, or
        ``REQUEST_INVALID`` for a query that a route does not take.
    """
    if b"websocket" in fields.get(b"upgrade", b"").lower():
        return _NO_WEBSOCKET
    if method == "POST" and (plain := _CALLS.get(raw_path)):
        return _call(plain, query) if query else plain
    dialect = dialect_of(raw_path, fields)
    if method == "GET" and raw_path.startswith(_MODELS):
        return _models(dialect, raw_path, query)
    if method == "HEAD" and raw_path in _HEALTH and not query:
        return Route(None, dialect)
    return _OTHER_METHOD.get(raw_path, _NO_ROUTE)


def path_of(wire: Wire) -> str:
    """Where calls of a wire are sent."""
    if wire is Wire.MODELS:
        return _MODELS.decode()
    return next(route.upstream_path for route in _CALLS.values() if route.wire is wire)


def _call(plain: Route, query: bytes) -> Route | Refusal:
    if plain.wire in _WITH_BETA:
        if query == b"beta=true":
            return Route(plain.wire, plain.dialect, plain.upstream_path + "?beta=true")
        return _bad_query("The only query this route takes is beta=true; the body says the rest.")
    return _bad_query("This route takes no query; the model and all else stand in the body.")


def _models(dialect: Dialect, raw_path: bytes, query: bytes) -> Route | Refusal:
    if query and not all(_PAGING.match(part) for part in query.split(b"&")):
        return _bad_query("The model list takes limit, after, after_id, before_id and beta only.")
    if raw_path == _MODELS:
        return Route(Wire.MODELS, dialect)
    prefix, _, encoded = raw_path.partition(_MODELS + b"/")
    model_id = unquote_to_bytes(encoded)
    if prefix or len(model_id) > _MAX_MODEL_ID or not _MODEL_ID.match(model_id):
        return _NO_ROUTE
    return Route(Wire.MODELS, dialect, model_id=model_id.decode())


def _bad_query(message: str) -> Refusal:
    return Refusal(Reason.REQUEST_INVALID, message)
