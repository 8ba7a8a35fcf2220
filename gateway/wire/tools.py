"""The tools a body offers, by what they can reach; their names are the caller's and stay unread."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Final

from gateway.core.facts import ToolKind, Wire

__all__ = ["CUSTOM_KINDS", "kind_of_tool"]

CUSTOM_KINDS: Final = frozenset({ToolKind.FUNCTION, ToolKind.CUSTOM, ToolKind.MCP})
"""Tools whose work is done by somebody whom the provider does not know."""

_EXACT: Final[Mapping[str, ToolKind]] = {
    "function": ToolKind.FUNCTION,
    "custom": ToolKind.CUSTOM,
    "mcp": ToolKind.MCP,
    "mcp_toolset": ToolKind.MCP,
    "shell": ToolKind.SHELL,
    "local_shell": ToolKind.SHELL,
    "apply_patch": ToolKind.TEXT_EDITOR,
    "code_interpreter": ToolKind.CODE_EXECUTION,
    "programmatic_tool_calling": ToolKind.CODE_EXECUTION,
}

_PREFIXES: Final[Iterable[tuple[str, ToolKind]]] = (
    # Versions follow the name: web_search_20260318, computer_use_preview, bash_20250124.
    ("web_search", ToolKind.WEB_SEARCH),
    ("web_fetch", ToolKind.WEB_FETCH),
    ("file_search", ToolKind.FILE_SEARCH),
    ("code_execution", ToolKind.CODE_EXECUTION),
    ("bash", ToolKind.SHELL),
    ("computer", ToolKind.COMPUTER),
    ("browser", ToolKind.COMPUTER),
    ("text_editor", ToolKind.TEXT_EDITOR),
    ("image_generation", ToolKind.IMAGE_GENERATION),
    ("memory", ToolKind.MEMORY),
    ("advisor", ToolKind.ADVISOR),
)


def kind_of_tool(wire: Wire, definition: Mapping[str, Any]) -> ToolKind:
    """The kind of one tool definition; ``OTHER`` for every type not listed here."""
    name = definition.get("type")
    if name is None and ("input_schema" in definition or "name" in definition):
        return ToolKind.FUNCTION
    if not isinstance(name, str):
        return ToolKind.OTHER
    if name == "custom" and wire in (Wire.MESSAGES, Wire.COUNT_TOKENS):
        return ToolKind.FUNCTION  # Messages calls a tool with a JSON schema ``custom``.
    if kind := _EXACT.get(name):
        return kind
    for prefix, kind in _PREFIXES:
        if name == prefix or name.startswith(prefix + "_"):
            return kind
    return ToolKind.OTHER
