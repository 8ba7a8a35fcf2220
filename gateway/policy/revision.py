"""What the gateway itself reads of a bundle: catalogue, aliases, rule places, instants, networks.

Everything that can be wrong with them is found here, with the line in the data file.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import msgspec

from gateway.core.catalogue import CatalogueEntry
from gateway.core.clock import parse_timestamp
from gateway.core.protocols import Revision, RuleSource
from gateway.policy import strict_yaml
from gateway.policy.bundle import Bundle
from gateway.policy.findings import BundleError
from gateway.policy.shapes import SHAPES

__all__ = ["revision_of"]

_RULE = re.compile(r'"rule"[ \t]*:[ \t]*"([^"]*)"')
_INSTANT = re.compile(r'"(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ)"')
_LIKE_A_DATE = re.compile(r"\d{4}-\d\d-\d\d(?:\Z|[Tt ])")


def revision_of(bundle: Bundle) -> Revision:
    """Read a bundle as the gateway does.

    Raises:
        BundleError: with every finding.
    """
    reading = _Reading(bundle)
    reading.shapes()
    catalogue = reading.catalogue()
    aliases = reading.aliases(catalogue)
    revision = Revision(
        id=bundle.id,
        catalogue=catalogue,
        aliases=aliases,
        rules=reading.rules(),
        instants=reading.instants(),
        networks=reading.networks(),
        hidden=_hidden(bundle, catalogue),
    )
    if reading.findings:
        raise BundleError(reading.findings)
    return revision


def _hidden(bundle: Bundle, catalogue: Mapping[str, CatalogueEntry]) -> frozenset[str]:
    """Models at a stage that only some may see (``visible_to`` in ``data/stages.yaml``)."""
    stages = bundle.data.get("stages", {})
    return frozenset(
        entry.id
        for entry in catalogue.values()
        if isinstance(stages.get(entry.stage), dict) and "visible_to" in stages[entry.stage]
    )


class _Reading:
    """One pass over a bundle; ``findings`` grows on the way."""

    def __init__(self, bundle: Bundle) -> None:
        self.bundle = bundle
        self.findings: list[str] = []
        self._lines: dict[str, dict[strict_yaml.Path, int]] = {}

    def refuse(self, name: str, path: strict_yaml.Path, problem: str) -> None:
        """Add a finding about ``data[name]`` at ``path``, or at the nearest value above it."""
        file = f"data/{name}.yaml"
        if name not in self._lines:
            text = self.bundle.files.get(file, b"{}").decode()
            self._lines[name] = strict_yaml.load(text, file).lines
        while path and path not in self._lines[name]:
            path = path[:-1]
        self.findings.append(f"{file}:{self._lines[name].get(path, 1)}: {problem}")

    def shapes(self) -> None:
        """Refuse a value that rules would compare, but not as it was meant."""
        for name, shape in SHAPES.items():
            if name in self.bundle.data:
                try:
                    msgspec.convert(self.bundle.data[name], shape)
                except msgspec.ValidationError as error:
                    self.refuse(name, _at(str(error)), f"{name}: {error}")

    def catalogue(self) -> dict[str, CatalogueEntry]:
        catalogue: dict[str, CatalogueEntry] = {}
        for key, value in self.bundle.data.get("models", {}).items():
            try:
                entry = msgspec.convert(value, CatalogueEntry)
            except msgspec.ValidationError as error:
                self.refuse("models", (key, *_at(str(error))), f"model {key}: {error}")
                continue
            if entry.id != key:
                self.refuse("models", (key, "id"), f"model {key}: its id says {entry.id}")
            catalogue[key] = entry
            self._known(key, "stage", "stages", [entry.stage])
            self._known(key, "wave", "waves", [entry.wave] if entry.wave else [])
            self._known(key, "requires", "tiers", entry.requires.tiers)
        if not self.bundle.data.get("models"):
            self.findings.append("data/models.yaml:1: the catalogue holds no model")
        return catalogue

    def _known(self, model: str, field: str, file: str, names: Iterable[str]) -> None:
        """What a model names must stand in the file that says what it means."""
        for name in names:
            if file in self.bundle.data and name not in self.bundle.data[file]:
                problem = f"model {model}: {name} is not in data/{file}.yaml"
                self.refuse("models", (model, field), problem)

    def aliases(self, catalogue: Mapping[str, CatalogueEntry]) -> dict[str, str]:
        aliases: dict[str, str] = {}
        for key, entry in catalogue.items():
            if entry.fallback is not None and entry.fallback not in catalogue:
                problem = f"model {key}: its fallback {entry.fallback} is not in the catalogue"
                self.refuse("models", (key, "fallback"), problem)
            if entry.fallback == key:
                self.refuse("models", (key, "fallback"), f"model {key}: falls back to itself")
            for alias in entry.aliases:
                holder = alias if alias in catalogue else aliases.get(alias)
                if holder is not None:
                    problem = f"model {key}: alias {alias} already means {holder}"
                    self.refuse("models", (key, "aliases"), problem)
                aliases[alias] = key
        return aliases

    def rules(self) -> dict[str, RuleSource]:
        rules: dict[str, RuleSource] = {}
        for file, text in self.bundle.modules.items():
            for number, line in enumerate(text.splitlines(), start=1):
                for rule in _RULE.findall(line.partition("#")[0]):
                    if rule in rules:
                        first = rules[rule]
                        self.findings.append(
                            f"{file}:{number}: rule id {rule} already stands in "
                            f"{first.file}:{first.line}"
                        )
                    rules.setdefault(rule, RuleSource(file, number))
        return rules

    def instants(self) -> list[int]:
        """Every timestamp of the data and of the rules' text, ascending, once each."""
        found: set[int] = set()
        for name, value in self.bundle.data.items():
            for path, text in _strings(value, ()):
                if not _LIKE_A_DATE.match(text):
                    continue
                try:
                    found.add(parse_timestamp(text))
                except ValueError:
                    problem = f"{text!r} is not a timestamp of the form 2026-01-31T00:00:00Z"
                    self.refuse(name, path, problem)
        for file, text in self.bundle.modules.items():
            for number, line in enumerate(text.splitlines(), start=1):
                for instant in _INSTANT.findall(line):
                    try:
                        found.add(parse_timestamp(instant))
                    except ValueError:
                        self.findings.append(f"{file}:{number}: {instant} is not a time")
        return sorted(found)

    def networks(self) -> dict[str, tuple[str, ...]]:
        networks: dict[str, tuple[str, ...]] = {}
        for label, ranges in self.bundle.data.get("networks", {}).items():
            if not isinstance(ranges, list):
                self.refuse("networks", (label,), f"network {label} is not a list of CIDRs")
                continue
            for index, cidr in enumerate(ranges):
                try:
                    ipaddress.ip_network(cidr if isinstance(cidr, str) else "")
                except ValueError as error:
                    self.refuse("networks", (label, index), f"network {label}: {error}")
            networks[label] = tuple(str(cidr) for cidr in ranges)
        return networks


def _strings(value: Any, path: strict_yaml.Path) -> Iterator[tuple[strict_yaml.Path, str]]:
    if isinstance(value, str):
        yield path, value
    elif isinstance(value, dict):
        for key, child in value.items():
            yield (*path, key), key
            yield from _strings(child, (*path, key))
    elif isinstance(value, list):
        for index, child in enumerate(value):
            yield from _strings(child, (*path, index))


def _at(error: str) -> strict_yaml.Path:
    """The path in msgspec's message (``... - at `$.requires.tiers```), for the line."""
    _, _, place = error.partition("`$.")
    return tuple(re.sub(r"\[.*?\]|`$", "", place).split(".")) if place else ()
