"""One walk over a parsed body: every model it names, every upstream object, every address.

Two kinds of ground are told apart. *Configuration* is everything but the conversation, and inside
the conversation every tool definition (tools may be added by a message): there a member whose name
says model or fallback names a model that the provider may run, wherever it stands. In the
*conversation* (``messages``, ``input``, …) such names are history. References to upstream objects
count on both. Values that the provider hands through as data (JSON schemas, arguments of past tool
calls, examples) are not entered.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final, NoReturn

from gateway.core.facts import ToolKind, Wire
from gateway.core.reasons import Reason
from gateway.core.refusal import Refusal, Refused
from gateway.wire.tools import CUSTOM_KINDS, kind_of_tool

__all__ = ["MAX_MODEL_LENGTH", "REFERENCES", "Survey", "invalid"]

MAX_MODEL_LENGTH: Final = 256
"""Characters; a catalogue id has at most 128."""
MAX_MODELS: Final = 16
"""Named beside the top-level ``model``: each is judged, so their number bounds a call's cost."""
MAX_TOOLS: Final = 10_000
"""Offered by one body; the facts count to ten times as many."""

REFERENCES: Final = frozenset(
    "previous_response_id comparison_response_id continuation_id response_id previous_message_id "
    "file_id file_ids input_file_id output_file_id error_file_id upload_id batch_id "
    "container_id vector_store_id vector_store_ids skill_id thread_id assistant_id "
    "agent_id environment_id memory_store_id vault_ids tunnel_id user_profile_id".split()
)
"""Members whose value is an id of an object that lives in the upstream account."""

_TOP_REFERENCES: Final = frozenset({"conversation", "container", "thread"})
_CONVERSATION: Final = frozenset({"messages", "input", "system", "instructions", "metadata"})
_TOOL_GROUND: Final = frozenset({"tools", "tool", "functions", "definition"})
_OPAQUE: Final = frozenset(
    "parameters input_schema output_schema json_schema schema guided_json input_examples "
    "arguments metadata client_metadata".split()
)
_TOOL_CALLS: Final = frozenset({"tool_use", "server_tool_use", "mcp_tool_use"})
_ADDRESSES: Final = (
    "image_url",
    "file_url",
    "audio_url",
    "video_url",
    "server_url",
    "connector_id",
)
_TELLING: Final = REFERENCES | {*_ADDRESSES, "url", "container"}
_WITH_ID: Final = frozenset({"audio", "voice", "container", "conversation"})
_MODEL_ENDINGS: Final = ("model", "models", "modelid", "modelids", "modelname", "modelnames")
_INERT: Final = frozenset({"fallback_credit_token"})

_STATED: Final[Mapping[str, str]] = {
    "message": "content",
    "function_call": "arguments",
    "function_call_output": "output",
    "custom_tool_call": "input",
    "custom_tool_call_output": "output",
    "local_shell_call": "action",
    "local_shell_call_output": "output",
    "shell_call": "action",
    "shell_call_output": "output",
    "apply_patch_call": "operation",
    "apply_patch_call_output": "status",
    "computer_call": "action",
    "computer_call_output": "output",
    "web_search_call": "action",
    "tool_search_call": "arguments",
    "tool_search_output": "tools",
    "mcp_list_tools": "tools",
    "mcp_call": "arguments",
    "mcp_approval_request": "arguments",
    "mcp_approval_response": "approve",
}
"""Responses items by type, and the member that says it all, empty or not."""
_TOLD: Final[Mapping[str, str]] = {
    "reasoning": "encrypted_content",
    "compaction": "encrypted_content",
    "compaction_summary": "encrypted_content",
    "image_generation_call": "result",
    "file_search_call": "results",
    "code_interpreter_call": "outputs",
}
"""Items that the provider fills in from its store by their id, unless this member holds something.

A reasoning item's ``summary`` and ``content`` are for people to read: with an id and without
``encrypted_content`` the item is looked up (https://github.com/vercel/ai/issues/7543).
"""


def invalid(message: str) -> NoReturn:
    """Refuse a body that is JSON, yet not a request.

    Raises:
        Refused: with ``REQUEST_INVALID``; the message must hold no value of the body.
    """
    raise Refused(Refusal(Reason.REQUEST_INVALID, message))


class Survey:
    """What the walk found.

    Attributes:
        models: each model named beside the top-level ``model``, in order of appearance; also the
            top level's own name, where it stands a second time.
        references: names (of ``REFERENCES`` and a few structures) that hold an object's id.
        kinds: how many tools of each kind the body offers.
        remote_fetch: the provider would fetch an address that the body gives.
    """

    def __init__(self, wire: Wire, document: Mapping[str, Any]) -> None:
        """Walk the document.

        Raises:
            Refused: a member that names models has a shape that we cannot read.
        """
        self.models: dict[str, None] = {}
        self.references: dict[str, None] = {}
        self.kinds: dict[ToolKind, int] = {}
        self.remote_fetch = False
        self._wire = wire
        self._stack: list[tuple[Any, bool]] = []
        self._top_level(document)
        while self._stack:
            node, configuration = self._stack.pop()
            if type(node) is dict:
                self._object(node, configuration)
            else:
                self._stack.extend((v, configuration) for v in node if type(v) in (dict, list))

    @property
    def custom_tools(self) -> int:
        """Tools of kind ``function``, ``custom`` and ``mcp``."""
        return sum(count for kind, count in self.kinds.items() if kind in CUSTOM_KINDS)

    def _top_level(self, document: Mapping[str, Any]) -> None:
        self._references(document)
        for key, value in document.items():
            if value is None or key == "model":
                continue
            self._model_member(key, value)
            if key in _TOP_REFERENCES or (key == "prompt" and isinstance(value, dict)):
                self.references[key] = None
            if type(value) not in (dict, list) or key in _OPAQUE or key == "tool_choice":
                continue
            self._top_level_tools(key, value)
            self._stack.append((value, key not in _CONVERSATION))

    def _top_level_tools(self, key: str, value: Any) -> None:
        if key in ("tools", "functions"):
            self._tools(value)
        elif key == "mcp_servers":
            self._tools([{"type": "mcp"}] * len(value))
        elif key == "web_search_options":
            self._tools({"type": "web_search"})
        elif key == "input" and self._wire is Wire.RESPONSES:
            self._items(value)

    def _object(self, node: dict[str, Any], configuration: bool) -> None:
        if not _TELLING.isdisjoint(node):
            self._references(node)
            self._addresses(node)
        kind = node.get("type")
        for key, value in node.items():
            if configuration:
                self._model_member(key, value)
            if (type(value) is not dict and type(value) is not list) or key in _OPAQUE:
                continue
            if key == "input" and isinstance(kind, str) and kind in _TOOL_CALLS:
                continue
            if key in _WITH_ID and _has_id(value):
                self.references[key] = None
            if key == "tools" or (key == "definition" and kind == "tool_definition"):
                self._tools(value)
            self._stack.append((value, configuration or key in _TOOL_GROUND))

    def _references(self, node: Mapping[str, Any]) -> None:
        for name in REFERENCES.intersection(node):
            if node[name] not in (None, "", []):
                self.references[name] = None

    def _addresses(self, node: Mapping[str, Any]) -> None:
        """Image and file URLs, URL sources, remote MCP servers; ``data:`` is no address.

        A tool's ``container`` may be an id, too.
        """
        for name in _ADDRESSES:
            value = node.get(name)
            if isinstance(value, dict):
                value = value.get("url")
            if isinstance(value, str) and value and not value.startswith("data:"):
                self.remote_fetch = True
        if node.get("type") == "url" and node.get("url"):
            self.remote_fetch = True
        if isinstance(node.get("container"), str):
            self.references["container"] = None

    def _items(self, value: Any) -> None:
        """Responses ``input``: an item with an id and no content of its own is a stored item."""
        for item in value if type(value) is list else ():
            if type(item) is dict and _is_stored(item):
                self.references["item_reference"] = None

    def _tools(self, value: Any) -> None:
        """Count tool definitions; a ``namespace`` counts through the tools that it holds."""
        for tool in value if type(value) is list else (value,):
            if type(tool) is dict and tool.get("type") != "namespace":
                kind = kind_of_tool(self._wire, tool)
                self.kinds[kind] = self.kinds.get(kind, 0) + 1
        if sum(self.kinds.values()) > MAX_TOOLS:
            invalid(f"A request offers {MAX_TOOLS} tools at most: send fewer.")

    def _model_member(self, key: str, value: Any) -> None:
        folded = key.casefold()
        if "model" not in folded and "fallback" not in folded:
            return
        if folded in ("model", "models", "fallbacks") and folded != key:
            invalid(f"A member reads as `{folded}` but is not spelled so; spell it `{folded}`.")
        if value is None or key in _INERT:
            return
        if "fallback" in folded:
            self._fallbacks(value)
        elif folded.replace("_", "").replace("-", "").endswith(_MODEL_ENDINGS):
            self._named(folded, value)

    def _named(self, key: str, value: Any) -> None:
        """``model``: a string, an object with ``model`` or ``id``, or a list of these."""
        if isinstance(value, str):
            self._add(value)
        elif isinstance(value, list):
            for entry in value:
                self._named(key, entry)
        elif isinstance(value, dict) and isinstance(
            name := value.get("model", value.get("id")), str
        ):
            self._add(name)
        elif key in ("model", "models"):
            invalid(f"`{key}` must name models by strings.")

    def _fallbacks(self, value: Any) -> None:
        """A list of ids, of ``{"model": …}``, or of ``{"from": ["to", …]}``."""
        if value == "default":
            invalid(
                '`fallbacks: "default"` lets the provider choose the model; '
                "list the models that may answer."
            )
        if isinstance(value, str):
            self._add(value)
        elif isinstance(value, list):
            for entry in value:
                self._fallbacks(entry)
        elif isinstance(value, dict):
            if "model" in value:
                self._named("model", value["model"])
                return
            for source, targets in value.items():
                self._add(source)
                self._fallbacks(targets)
        elif not isinstance(value, bool):
            invalid("A member that lists fallback models has a shape that cannot be judged.")

    def _add(self, model: str) -> None:
        if not 0 < len(model) <= MAX_MODEL_LENGTH:
            invalid(f"A model is named by 1 to {MAX_MODEL_LENGTH} characters.")
        self.models[model] = None
        if len(self.models) > MAX_MODELS:
            invalid(f"A request names {MAX_MODELS} models at most, each of which is judged.")


def _is_stored(item: Mapping[str, Any]) -> bool:
    """A type that is not known here, and has an id, is taken for a reference."""
    kind = item.get("type")
    if kind == "item_reference":
        return True
    if kind is None and "role" in item:
        kind = "message"
    if not _has_id(item):
        return False
    if not isinstance(kind, str):
        return True
    if kind in _STATED:
        return item.get(_STATED[kind]) is None
    told = item.get(_TOLD[kind]) if kind in _TOLD else None
    return not (type(told) in (str, list) and told)


def _has_id(value: Any) -> bool:
    return isinstance(value, dict) and value.get("id") not in (None, "")
