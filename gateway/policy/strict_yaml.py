"""YAML without surprises, for the data of a bundle.

YAML 1.1 reads ``NO`` as false, ``010`` as eight and ``2026-01-01`` as a date; anchors share nodes
and merge keys hide them. Here a plain scalar is a string, a decimal integer, ``true``, ``false``
or ``null``, and whatever another reader could take for something else is refused with its line.
Floats are refused too: the engines print them differently. The result is JSON.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

import yaml

from gateway.policy.findings import BundleError

__all__ = ["Document", "Path", "load"]

MAX_DEPTH = 32
MAX_INTEGER = 2**53 - 1
"""The largest integer that every JSON reader keeps exact (RFC 8259, section 6)."""

Path = tuple[str | int, ...]

_INTEGER = re.compile(r"-?(0|[1-9][0-9]{0,18})\Z")
_SURROGATE = re.compile("[\ud800-\udfff]")
_TAG = "tag:yaml.org,2002:"


@dataclass(frozen=True)
class Document:
    """A parsed file. ``lines`` holds the line of each value by its path of keys and indices."""

    value: Any
    lines: dict[Path, int]


class _Composer(yaml.SafeLoader):
    """Composes the node tree, and refuses what must not stand in it."""

    depth = 0

    def compose_node(self, parent: Any, index: Any) -> Any:
        event = self.peek_event()  # type: ignore[no-untyped-call]
        if isinstance(event, yaml.AliasEvent) or event.anchor is not None:
            raise _Refused("anchors and aliases are not used: write the value out", event)
        if event.tag is not None:
            raise _Refused("tags are not used", event)
        self.depth += 1
        if self.depth > MAX_DEPTH:
            raise _Refused(f"nested deeper than {MAX_DEPTH} levels", event)
        node = super().compose_node(parent, index)
        self.depth -= 1
        return node


class _Refused(yaml.YAMLError):
    def __init__(self, problem: str, event: yaml.Event) -> None:
        self.problem = problem
        self.line = event.start_mark.line + 1 if event.start_mark else 1
        super().__init__(problem)


class _Reading:
    """Turns nodes into values and gathers every finding on the way."""

    def __init__(self, file: str) -> None:
        self.file = file
        self.findings: list[str] = []
        self.lines: dict[Path, int] = {}

    def refuse(self, node: yaml.Node, problem: str) -> None:
        self.findings.append(f"{self.file}:{node.start_mark.line + 1}: {problem}")

    def value(self, node: yaml.Node, path: Path) -> Any:
        self.lines[path] = node.start_mark.line + 1
        if isinstance(node, yaml.MappingNode):
            return self.mapping(node, path)
        if isinstance(node, yaml.SequenceNode):
            return [self.value(item, (*path, i)) for i, item in enumerate(node.value)]
        return self.scalar(node)

    def mapping(self, node: yaml.MappingNode, path: Path) -> dict[str, Any]:
        result: dict[str, Any] = {}
        for key_node, value_node in node.value:
            key = self.scalar(key_node) if isinstance(key_node, yaml.ScalarNode) else None
            if not isinstance(key, str):
                self.refuse(key_node, "a key is a string: quote it")
                continue
            if key in result:
                self.refuse(key_node, f"duplicate key {key!r}")
                continue
            result[key] = self.value(value_node, (*path, key))
            self.lines[(*path, key)] = key_node.start_mark.line + 1
        return result

    def scalar(self, node: yaml.Node) -> Any:
        text: str = node.value
        kind = node.tag.removeprefix(_TAG)
        if kind == "str":
            if _SURROGATE.search(text):
                self.refuse(node, "half of a surrogate pair is no character: write the character")
            return text
        if kind == "bool" and text in ("true", "false"):
            return text == "true"
        if kind == "null" and text == "null":
            return None
        if kind == "int" and _INTEGER.match(text):
            if abs(int(text)) <= MAX_INTEGER:
                return int(text)
            self.refuse(node, f"{text} is larger than 2^53 - 1")
        elif kind == "timestamp":
            self.refuse(node, f'write the timestamp as a quoted string: "{text}"')
        elif kind == "float":
            self.refuse(node, f"{text} is a float: use an integer, or quote it")
        elif kind == "null":
            self.refuse(node, "an empty value: write null, or quote it")
        else:
            self.refuse(node, f"YAML readers take {text!r} for a {kind}: quote it")
        return None


def load(text: str, file: str) -> Document:
    """Read one YAML document.

    Args:
        text: the file's content.
        file: its name in findings.

    Raises:
        BundleError: with every finding; a fault of syntax ends the reading of this file.
    """
    reading = _Reading(file)
    value: Any = None
    try:
        node = _Composer(text).get_single_node()
        if node is None:
            raise BundleError([f"{file}:1: the file is empty"])
        value = reading.value(node, ())
    except _Refused as error:
        reading.findings.append(f"{file}:{error.line}: {error.problem}")
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line = mark.line + 1 if mark else 1
        reading.findings.append(f"{file}:{line}: {error.problem or error.context}")
    except yaml.YAMLError as error:
        reading.findings.append(f"{file}:1: {str(error).splitlines()[0]}")
    if reading.findings:
        raise BundleError(reading.findings)
    return Document(value, reading.lines)
