"""Reading a parsed Rego module: the calls it makes and the documents it reads.

The tree is the parser's own (``embedded.syntax_tree``), so nothing is guessed from the text. A
node is an object with one key, its kind (``Call``, ``RefDot``, ``BoolExpr``...).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

__all__ = ["ANY", "Module", "Node", "Reference", "reference"]

ANY = "*"
"""A step of a reference that is known only at run time."""


@dataclass(frozen=True)
class Reference:
    """``input.a[x].b`` is ``("input", "a", ANY, "b")``."""

    path: tuple[str, ...]
    line: int


@dataclass(frozen=True)
class Node:
    """One expression or statement. ``parent`` is the kind around it."""

    kind: str
    body: dict[str, Any]

    @property
    def line(self) -> int:
        """Where it begins, counted from 1."""
        span = self.body.get("span") or {}
        line: int = span.get("line", 1)
        return line


class Module:
    """A parsed module.

    Args:
        file: its path in findings.
        text: its source.
        tree: what ``embedded.syntax_tree`` answered for it.
    """

    def __init__(self, file: str, text: str, tree: dict[str, Any]) -> None:
        self.file = file
        self.rules: list[Node] = [
            Node(kind, body) for rule in tree["rules"] for kind, body in rule.items()
        ]
        self.package = ".".join(_path(tree["package"]["refr"]))
        self.imports: dict[str, tuple[str, ...]] = {}
        for entry in tree["imports"]:
            path = _path(entry["refr"])
            alias = entry.get("as")
            name = text.encode()[alias["start"] : alias["end"]].decode() if alias else path[-1]
            self.imports[name] = path

    def nodes(self) -> Iterator[Node]:
        """Every node of every rule."""
        for rule in self.rules:
            yield rule
            yield from _below(rule.body)

    def head(self, rule: Node) -> tuple[str, str]:
        """The kind (``Default``, ``Compr``, ``Set``, ``Func``) and name of a rule."""
        if rule.kind == "Default":
            return "Default", ".".join(_path(rule.body["refr"]))
        ((kind, head),) = rule.body["head"].items()
        return kind, ".".join(_path(head["refr"]))

    def resolved(self, path: tuple[str, ...]) -> tuple[str, ...]:
        """A path with its import written out."""
        return (*self.imports[path[0]], *path[1:]) if path[0] in self.imports else path


def reference(kind: str, body: dict[str, Any]) -> Reference | None:
    """The whole reference that a node is; ``None`` for other nodes."""
    if kind not in ("Var", "RefDot", "RefBrack"):
        return None
    return Reference(_path({kind: body}), Node(kind, body).line)


def _path(node: dict[str, Any]) -> tuple[str, ...]:
    ((kind, body),) = node.items()
    if kind == "Var":
        return (str(body["value"]),)
    if kind == "RefDot":
        return (*_path(body["refr"]), _word(body["field"]))
    if kind == "RefBrack":
        index = body["index"]
        step = str(index["String"]["value"]) if "String" in index else ANY
        return (*_path(body["refr"]), step)
    return (ANY,)


def _word(field: Any) -> str:
    """A name that the tree gives as ``[span, text]``."""
    return str(field[1]) if isinstance(field, list) else ANY


def _below(value: Any) -> Iterator[Node]:
    """The nodes inside, outermost first; the inner parts of one reference are not repeated."""
    if isinstance(value, list):
        for item in value:
            yield from _below(item)
        return
    if not isinstance(value, dict):
        return
    for key, child in value.items():
        if key[:1].isupper() and isinstance(child, dict):
            yield Node(key, child)
            yield from _inside(key, child)
        else:
            yield from _below(child)


def _inside(kind: str, body: dict[str, Any]) -> Iterator[Node]:
    if kind not in ("RefDot", "RefBrack"):
        yield from _below(body)
        return
    node: dict[str, Any] = {kind: body}
    while True:  # down the chain: only its indices, and whatever it starts from
        ((kind, body),) = node.items()
        if kind == "RefBrack":
            yield from _below(body["index"])
        elif kind != "RefDot":
            if kind != "Var":
                yield from _below(node)
            return
        node = body["refr"]
