"""A request body as typed facts: the only reading of it that the gateway makes.

What ``read_request`` accepts has one ``model``, spelled so and standing once; every model that is
named anywhere else for the provider to run is in ``other_models``, the same one again included.
Fields that decide about access are checked by type; unknown fields are left alone (K15, K43). No
refusal repeats a value or a key of the body: messages name the protocols' own field names only.
"""

from __future__ import annotations

import unicodedata
from functools import lru_cache
from typing import Any, Final

from msgspec import Struct

from gateway.core.facts import Program, ToolKind, Wire
from gateway.core.reasons import Reason
from gateway.core.refusal import Refusal, Refused
from gateway.wire.strict_json import MalformedBody, parse
from gateway.wire.survey import MAX_MODEL_LENGTH, Survey, invalid

__all__ = ["MAX_OUTPUT_TOKENS", "RequestBody", "read_request"]

MAX_OUTPUT_TOKENS: Final = 100_000_000
"""The bound of ``ActionProperties.max_output_tokens``."""

_TOKEN_BOUNDS: Final = {
    Wire.CHAT: ("max_completion_tokens", "max_tokens"),
    Wire.RESPONSES: ("max_output_tokens",),
    Wire.MESSAGES: ("max_tokens",),
}
"""What bounds the output, by the wires that generate any; the preferred spelling first."""
_ALL_TOKEN_BOUNDS: Final = tuple(
    sorted({field for fields in _TOKEN_BOUNDS.values() for field in fields})
)

_LONGEST_KEPT: Final = 64
_GUARDED: Final = frozenset(
    "model models fallbacks fallback_model fallback_models stream stream_options background store "
    "n max_tokens max_completion_tokens max_output_tokens tools functions access_programs "
    "safety_identifier previous_response_id conversation container prompt thread input messages "
    "mcp_servers moderation web_search_options".split()
)
"""Top-level fields that a decision rests on; a key that only resembles one is refused."""


class RequestBody(Struct, frozen=True):
    """What the decision is made from, and the document for the edits.

    ``other_models`` are named beside the top-level ``model`` and travel as they are written; the
    top level's own name is among them where the body names it again. ``max_output_tokens`` is the
    largest bound that the body names, times the number of answers asked for (``n``), 0 where it
    names none. ``store`` holds the protocol's default where the body
    is silent: true on Responses. ``object_references`` are field names, never ids.
    """

    document: dict[str, Any]
    model: str
    other_models: tuple[str, ...]
    stream: bool
    background: bool
    store: bool
    max_output_tokens: int
    tool_kinds: tuple[ToolKind, ...]
    custom_tools: int
    program: Program | None
    remote_fetch: bool
    object_references: tuple[str, ...]
    include_usage_asked: bool


def read_request(wire: Wire, body: bytes, *, objects_allowed: bool = False) -> RequestBody:
    """Parse strictly and read the facts.

    Args:
        wire: the API surface that the route named.
        body: the bytes as they came; the same bytes are forwarded.
        objects_allowed: pass references to upstream objects and ``background`` on to the caller,
            who checks ownership. While there is no ledger to check against, they are refused.

    Raises:
        Refused: ``REQUEST_INVALID`` or ``OBJECT_REFERENCE_UNSUPPORTED``.
    """
    try:
        document = parse(body)
    except MalformedBody as error:
        where = f" ({error.where})" if error.where else ""
        invalid(f"Send JSON that reads one way only: {error.message}{where}.")
    _refuse_lookalikes(document)
    model = document.get("model")
    if not isinstance(model, str) or not 0 < len(model) <= MAX_MODEL_LENGTH:
        invalid("`model` is required: one model id, as a string.")
    survey = Survey(wire, document)
    background = _flag(document, "background", default=False)
    references = tuple(sorted(survey.references))
    if not objects_allowed and (references or background):
        _refuse_objects(references or ("background",))
    return RequestBody(
        document=document,
        model=model,
        other_models=tuple(survey.models),
        stream=_flag(document, "stream", default=False),
        background=background,
        store=_flag(document, "store", default=wire is Wire.RESPONSES),
        max_output_tokens=_output_bound(wire, document),
        tool_kinds=tuple(sorted(survey.kinds)),
        custom_tools=survey.custom_tools,
        program=_program(document),
        remote_fetch=survey.remote_fetch,
        object_references=references,
        include_usage_asked=_include_usage(document),
    )


def _refuse_lookalikes(document: dict[str, Any]) -> None:
    """Keys that a lax upstream could take for a field we read: ``Model``, ``maxTokens``, ``MODEL``.

    Go's encoding/json folds case (and U+017F, U+212A); protobuf's JSON form takes camelCase.
    """
    for key in document:
        if key in _GUARDED:
            continue
        field = _resembled(key) if len(key) <= _LONGEST_KEPT else _BY_FOLD.get(_fold(key))
        if field:
            invalid(f"A key reads as `{field}` but is not spelled so; spell it `{field}`.")


@lru_cache(maxsize=1024)
def _resembled(key: str) -> str | None:
    """The guarded field that a key could be taken for; remembered, for clients send the same."""
    return _BY_FOLD.get(_fold(key))


def _fold(key: str) -> str:
    if not key.isascii():
        key = unicodedata.normalize("NFKC", key)
    return key.strip().casefold().replace("_", "").replace("-", "")


_BY_FOLD: Final = {_fold(field): field for field in sorted(_GUARDED)}


def _refuse_objects(references: tuple[str, ...]) -> None:
    names = ", ".join(f"`{name}`" for name in references[:4])
    mend = ""
    if "item_reference" in references:
        mend = (
            " An item of `input` is inline without its `id`; reasoning also with its "
            "`encrypted_content`, which `include` asks for."
        )
    raise Refused(
        Refusal(
            Reason.OBJECT_REFERENCE_UNSUPPORTED,
            f"Send content inline: {names} needs stored objects, which this gateway does not pass.",
            "Objects in the provider's account are shared by all who use it, so calls that name "
            f"them are refused until ownership is tracked.{mend}",
        )
    )


def _flag(document: dict[str, Any], field: str, *, default: bool) -> bool:
    value = document.get(field)
    if value is None:
        return default
    if type(value) is not bool:
        invalid(f"`{field}` must be true or false.")
    return value


def _whole(container: dict[str, Any], field: str) -> int:
    """A count; absent and null are 0. ``1.0`` and ``1e2`` are refused: parsers differ on them."""
    value = container.get(field)
    if value is None:
        return 0
    if type(value) is not int or not 0 <= value <= MAX_OUTPUT_TOKENS:
        invalid(f"`{field}` must be a whole number from 0 to {MAX_OUTPUT_TOKENS}.")
    return value


def _output_bound(wire: Wire, document: dict[str, Any]) -> int:
    """The largest bound in the wire's own fields.

    Another protocol's field would pass for a small bound here and bind nothing at the provider.
    """
    own = _TOKEN_BOUNDS.get(wire)
    if own is None:
        return 0
    fallbacks = document.get("fallbacks")
    # A fallback attempt may raise the bound for itself.
    attempts = fallbacks if isinstance(fallbacks, list) else ()
    bound = 0
    for container in (document, *(entry for entry in attempts if isinstance(entry, dict))):
        for field in _ALL_TOKEN_BOUNDS:
            if field in own:
                bound = max(bound, _whole(container, field))
            elif container.get(field) is not None:
                invalid(f"`{field}` bounds nothing on this API: send `{own[0]}` instead.")
    if wire is Wire.CHAT:
        bound *= max(_whole(document, "n"), 1)
        if bound > MAX_OUTPUT_TOKENS:
            invalid(f"`n` times the output bound must not exceed {MAX_OUTPUT_TOKENS} tokens.")
    return bound


def _program(document: dict[str, Any]) -> Program | None:
    """``access_programs``: programmes other than ``cyber`` read as ``OTHER``."""
    programs = document.get("access_programs")
    if programs is None:
        return None
    if not isinstance(programs, dict):
        invalid("`access_programs` must be an object.")
    asked = {name: value for name, value in programs.items() if value is not None}
    if not asked:
        return None
    if any(name != "cyber" for name in asked):
        return Program.OTHER
    if not isinstance(asked["cyber"], str):
        invalid("`access_programs.cyber` must be a string.")
    return Program(asked["cyber"]) if asked["cyber"] in _PROGRAMS else Program.OTHER


_PROGRAMS: Final = frozenset(program.value for program in Program)


def _include_usage(document: dict[str, Any]) -> bool:
    options = document.get("stream_options")
    if options is None:
        return False
    if not isinstance(options, dict):
        invalid("`stream_options` must be an object.")
    return _flag(options, "include_usage", default=False)
