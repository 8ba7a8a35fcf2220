"""Invariants of a bundle: what is refused before any rule runs.

All of it reads the parser's own tree (``rego``), so comments and strings cannot mislead it. It
holds for the rules, not for their tests. What it does not see: an input field that is misspelt
behind a local variable (``opa check --schema`` follows those), and an instant that a rule
computes; a rule that compares the time with one must return it as ``valid_until``.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from gateway.core.schema import input_schema
from gateway.policy.bundle import Bundle
from gateway.policy.embedded import ENTRY_POINT, syntax_tree
from gateway.policy.findings import BundleError
from gateway.policy.portable import PORTABLE
from gateway.policy.rego import ANY, Module, Node, Reference, reference
from gateway.policy.revision import revision_of

__all__ = ["check", "check_modules"]

_ORDER = frozenset({"Lt", "Le", "Gt", "Ge"})
_TIME = ("input", "context", "time")
_FORMAT = re.compile(r"%[^sdv%]")
_SCHEMA: Mapping[str, Any] = json.loads(input_schema())


def check(bundle: Bundle) -> list[str]:
    """Every invariant that needs no evaluation.

    Returns:
        Findings in words, ``file:line`` first; none means that the bundle is well made.
    """
    findings: list[str] = []
    try:
        revision_of(bundle)
    except BundleError as error:
        findings += error.findings
    modules = []
    for file, text in bundle.modules.items():
        try:
            modules.append(Module(file, text, syntax_tree(file, text)))
        except BundleError as error:
            findings += error.findings
    findings += check_modules(modules, bundle.data)
    if len(modules) == len(bundle.modules):
        findings += _entry_point(modules)
    return findings


def check_modules(modules: Sequence[Module], data: Mapping[str, Any]) -> list[str]:
    """The invariants of single expressions, for rules and for directives."""
    functions = {
        f"{module.package}.{name}"
        for module in modules
        for kind, name in map(module.head, module.rules)
        if kind == "Func"
    }
    roots = {module.package.partition(".")[0] for module in modules} | data.keys()
    findings = []
    for module in modules:
        for node in module.nodes():
            problem = _call(module, node, functions) or _number(node) or _reads(module, node, roots)
            if problem:
                findings.append(f"{module.file}:{node.line}: {problem}")
        findings += [
            f"{module.file}:{line}: input.context.time may only be compared (<, <=, >, >=)"
            for line in _loose_times(module)
        ]
        findings += [
            f"{module.file}:1: import {'.'.join(path)}: import packages, and write input out"
            for path in module.imports.values()
            if path[0] not in ("data", "rego")
        ]
    return findings


def _entry_point(modules: Sequence[Module]) -> list[str]:
    """K33: the decision is one complete rule, never a set that every module may add to."""
    package, _, name = ENTRY_POINT.removeprefix("data.").rpartition(".")
    findings = []
    defined = False
    for module in modules:
        for rule in module.rules if module.package == package else ():
            kind, head = module.head(rule)
            if head == name and kind in ("Compr", "Default"):
                defined = True
            elif head == name or head.startswith(f"{name}."):
                findings.append(f"{module.file}:{rule.line}: {ENTRY_POINT} is not a complete rule")
    return findings if defined else [*findings, f"{ENTRY_POINT} is not defined"]


def _call(module: Module, node: Node, functions: set[str]) -> str | None:
    """K29: regorus finds an unknown function only when that branch runs."""
    if node.kind != "Call":
        return None
    ((kind, body),) = node.body["fcn"].items()
    called = reference(kind, body) or Reference((ANY,), node.line)
    written = ".".join(called.path)
    full = ".".join(module.resolved(called.path))
    if full.removeprefix("data.") in functions:
        # regorus looks a function up by what is written, and follows no import to it.
        return None if written == full else f"functions are called by full name: {full}(...)"
    if f"{module.package}.{written}" in functions:
        return None
    if written not in PORTABLE:
        return f"{written} is not a function of the bundle, nor one that both engines have"
    if written == "sprintf" and _FORMAT.search(_literal(node.body["params"][0])):
        return "sprintf: only %s, %d and %v mean the same to both engines"
    return None


def _literal(node: Mapping[str, Any]) -> str:
    return str(node["String"]["value"]) if "String" in node else ""


def _number(node: Node) -> str | None:
    if node.kind == "Number" and not isinstance(node.body["value"], int):
        return f"{node.body['value']} is not an integer"
    if node.kind == "ArithExpr" and node.body.get("op") == "Div":
        return "a division may give a float: the engines print them differently"
    return None


def _reads(module: Module, node: Node, roots: set[str]) -> str | None:
    """K34: a document that does not exist is undefined, and its rule is dead."""
    read = reference(node.kind, node.body)
    if read is None:
        return None
    path = module.resolved(read.path)
    if path[0] == "data" and path[1:2] in ((), (ANY,)):
        return "all of data is read: name the document"
    if path[0] == "data" and path[1] not in roots:
        return f"data.{path[1]} is not in the bundle"
    if path[0] == "input":
        return _unknown_input(path)
    return None


def _unknown_input(path: Sequence[str]) -> str | None:
    if len(path) == 1 or path == ("input", "context") or ANY in path[:3]:
        return "the whole input is taken: name the fact, so that readers of the time are seen"
    node: Mapping[str, Any] = _SCHEMA
    for depth, step in enumerate(path[1:], start=2):
        node = next((arm for arm in node.get("anyOf", ()) if arm.get("type") != "null"), node)
        known = node.get("properties", {})
        if step in known:
            node = known[step]
        elif isinstance(node.get("additionalProperties"), dict):
            node = node["additionalProperties"]
        elif step == ANY and (known or "items" in node):
            node = node.get("items", {})
        else:
            return f"{'.'.join(path[:depth])} is not a fact"
        if not node:
            return None
    return None


def _loose_times(module: Module) -> Iterator[int]:
    """Lines that read the time elsewhere than as one side of an order comparison."""
    compared: set[int] = set()
    read: list[tuple[int, Reference]] = []
    for node in module.nodes():
        if node.kind == "BoolExpr" and node.body["op"] in _ORDER:
            for side in (node.body["lhs"], node.body["rhs"]):
                ((kind, body),) = side.items()
                other = node.body["rhs"] if side is node.body["lhs"] else node.body["lhs"]
                if reference(kind, body) and not other.keys() & {"ArithExpr", "Number"}:
                    compared.add(body["eidx"])
        found = reference(node.kind, node.body)
        if found and found.path == _TIME:
            read.append((node.body["eidx"], found))
    return (found.line for number, found in read if number not in compared)
