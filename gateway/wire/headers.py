"""Which headers travel on, in either direction.

Towards the provider unknown headers pass (clients and providers pair them with body fields), so
what must not pass is listed: hop-by-hop headers and those that ``Connection`` names, every form of
client credential, everything a proxy says about the client, the provider's account selectors,
what steers a router behind us, what asks for a part of an answer or for another call's answer,
whatever names a model (some endpoints route by it; the body alone was judged, K1), and our own
prefix (K4). Towards the client only what is listed passes: the upstream's rate limits,
cookies and account names are not the client's.

A header whose name is no token, or whose value could end a line, never passes in either direction.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache
from typing import Final

from gateway.core.facts import Wire

__all__ = [
    "CONFIGURED",
    "UNSAFE",
    "Fields",
    "Header",
    "client_response_headers",
    "combined",
    "upstream_request_headers",
]

Header = tuple[bytes, bytes]
"""Name and value; names are lower-case once a head has been read."""
Fields = Mapping[bytes, bytes]
"""Header values by lower-case name, those of a name that stands several times combined."""

_HOP_BY_HOP: Final = frozenset(
    b"connection keep-alive proxy-connection proxy-authenticate proxy-authorization te trailer "
    b"transfer-encoding upgrade http2-settings expect host content-length".split()
)
_CREDENTIALS: Final = frozenset(
    b"authorization x-api-key api-key x-goog-api-key x-auth-token cookie dpop client-cert "
    b"client-cert-chain ocp-apim-subscription-key".split()
)
_ABOUT_THE_CLIENT: Final = frozenset(
    b"forwarded via x-real-ip x-client-ip x-cluster-client-ip true-client-ip fastly-client-ip "
    b"cf-connecting-ip x-rewrite-url x-http-method-override".split()
)
# Ours to say: the body is sent unencoded, as JSON, and is answered unencoded.
_BODY: Final = frozenset(
    b"content-type content-encoding content-digest repr-digest digest content-md5 "
    b"accept-encoding".split()
)
# All members share the provider key, and idempotency keys are per provider key: with the key of
# another member's call, the provider could answer with that call's answer.
_ANOTHER_ANSWER: Final = frozenset({b"idempotency-key", b"range"})
CONFIGURED: Final = frozenset(
    b"openai-organization openai-project anthropic-user-profile-id anthropic-workspace-id "
    b"anthropic-organization-id".split()
)
"""Account selectors of the providers: set from the catalogue's endpoint, or dropped."""

_DROPPED: Final = (
    _HOP_BY_HOP | _CREDENTIALS | _ABOUT_THE_CLIENT | _BODY | _ANOTHER_ANSWER | CONFIGURED
)
_DROPPED_PREFIXES: Final = (
    b"x-forwarded-",
    b"x-original-",
    b"x-envoy-",
    b"x-amzn-",
    b"cf-",
    b"x-ssl-",
    b"ssl-client-",
    b"x-portkey-",
    b"helicone-",
    b"x-litellm-",
    b"x-sluicegate-",
)
_MODEL_WORDS: Final = frozenset({b"model", b"models"})

_RENAMED: Final[Mapping[bytes, bytes]] = {
    b"x-request-id": b"x-upstream-request-id",
    b"request-id": b"x-upstream-request-id",
}
_ANSWERED: Final = frozenset(
    b"content-type cache-control openai-processing-ms openai-version openai-model x-models-etag "
    b"x-codex-turn-state x-reasoning-included".split()
)
_ANSWERED_WITH_ERRORS: Final = frozenset({b"retry-after", b"retry-after-ms", b"x-should-retry"})
_ERROR_STATUS: Final = 400

_MAX_NAME: Final = 256
_NAME: Final = re.compile(rb"[!#$%&'*+.^_`|~0-9A-Za-z-]+\Z")
UNSAFE: Final = bytes({*range(0x20), 0x7F} - {0x09})
"""What could end a header line, or a parser's reading of it (RFC 9110, section 5.5)."""
_KEY: Final = re.compile(r"[\x21-\x7e]{1,4096}\Z")


def combined(headers: Sequence[Header]) -> Fields:
    """One value for each name (RFC 9110, section 5.3): what stands several times is joined by
    commas, which no single value of a header that may stand but once can hold.

    Args:
        headers: names in lower case, in order.
    """
    fields = dict(headers)
    if len(fields) == len(headers):
        return fields
    several: dict[bytes, list[bytes]] = {}
    for name, value in headers:
        several.setdefault(name, []).append(value)
    return {name: b", ".join(values) for name, values in several.items()}


def upstream_request_headers(
    wire: Wire,
    client_headers: Sequence[Header],
    provider_key: str,
    configured: Mapping[str, str] | None = None,
) -> list[Header]:
    """The headers of the upstream request, but for ``host`` and ``content-length``.

    Args:
        wire: decides the provider's form of credential: ``x-api-key`` on the Anthropic wires, else
            ``Authorization: Bearer``.
        client_headers: as ASGI gives them.
        provider_key: visible ASCII; empty for an upstream that wants none.
        configured: headers of this endpoint (``OpenAI-Organization``, …); they replace the
            client's.

    Raises:
        ValueError: the key or a configured header could break the header block; the message does
            not repeat them.
    """
    extra = _configured(configured) if configured else {}
    also_dropped = _named_by_connection(client_headers) | extra.keys()
    headers = [
        (name, value)
        for raw_name, value in client_headers
        if len(raw_name) <= _MAX_NAME
        and (name := _travels(raw_name))
        and name not in also_dropped
        and len(value.translate(None, UNSAFE)) == len(value)
    ]
    headers += extra.items()
    headers.append((b"content-type", b"application/json"))
    headers.append((b"accept-encoding", b"identity"))
    if provider_key:
        headers.append(_credential(wire, provider_key))
    return headers


@lru_cache(maxsize=2048)
def _travels(raw_name: bytes) -> bytes:
    """The name under which a client's header travels on; empty where it does not."""
    name = raw_name.lower()
    # Some servers read ``_`` as ``-``, so both spellings are dropped.
    plain = name.replace(b"_", b"-")
    if name in _DROPPED or plain in _DROPPED or plain.startswith(_DROPPED_PREFIXES):
        return b""
    if not _MODEL_WORDS.isdisjoint(plain.split(b"-")) or not _NAME.match(name):
        return b""
    return name


def client_response_headers(
    wire: Wire, upstream_headers: Iterable[Header], *, status: int = 200
) -> list[Header]:
    """What of the upstream's response headers the client gets.

    Lengths, dates, encodings and connection headers are the server's own; rate-limit headers are
    ours (``rate_headers``). With an error status the upstream's retry advice passes too, for the
    error body passes byte for byte.
    """
    anthropic = wire in (Wire.MESSAGES, Wire.COUNT_TOKENS)
    headers: list[Header] = []
    for raw_name, value in upstream_headers:
        name = raw_name.lower()
        if len(value.translate(None, UNSAFE)) != len(value):
            continue
        if renamed := _RENAMED.get(name):
            if all(renamed != sent for sent, _ in headers):  # some endpoints send both
                headers.append((renamed, value))
        elif (
            name in _ANSWERED
            or (status >= _ERROR_STATUS and name in _ANSWERED_WITH_ERRORS)
            or (anthropic and _is_notice(name))
        ):
            headers.append((name, value))
    return headers


def _is_notice(name: bytes) -> bool:
    """``anthropic-*`` is an open list, but for whose account it was and how much is left of it."""
    return (
        name.startswith(b"anthropic-")
        and not name.startswith(b"anthropic-ratelimit-")
        and name not in CONFIGURED
    )


def _named_by_connection(headers: Iterable[Header]) -> frozenset[bytes]:
    """RFC 9110 section 7.6.1: what ``Connection`` lists is for this hop alone."""
    return frozenset(
        [
            token.strip().lower()
            for name, value in headers
            if name.lower() == b"connection"
            for token in value.split(b",")
        ]
    )


def _configured(configured: Mapping[str, str]) -> dict[bytes, bytes]:
    headers = {}
    for name, value in configured.items():
        raw_name = name.lower().encode("ascii", "replace")
        if not _NAME.match(raw_name) or not _KEY.match(value):
            raise ValueError("a configured header is not a token with a visible ASCII value")
        headers[raw_name] = value.encode()
    return headers


def _credential(wire: Wire, provider_key: str) -> Header:
    if not _KEY.match(provider_key):
        raise ValueError("the provider key is not visible ASCII")
    if wire in (Wire.MESSAGES, Wire.COUNT_TOKENS):
        return b"x-api-key", provider_key.encode()
    return b"authorization", b"Bearer " + provider_key.encode()
