"""What the gateway itself reads of a bundle: catalogue, aliases, rule places, instants, networks.

Everything that can be wrong with them is found here, with the line in the data file.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, get_origin

import msgspec

from gateway.core.catalogue import CatalogueEntry
from gateway.core.clock import parse_timestamp
from gateway.core.protocols import Revision, RuleSource
from gateway.policy import strict_yaml
from gateway.policy.bundle import Bundle
from gateway.policy.findings import BundleError
from gateway.policy.shapes import SHAPES, in_words

__all__ = ["revision_of"]

_RULE = re.compile(r'"rule"[ \t]*:[ \t]*"([^"]*)"')
_INSTANT = re.compile(r'"(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ)"')
_STEP = re.compile(r"\.([^.\[`]+)|\[(\d+|\.\.\.)\]")
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
            data = self.bundle.data.get(name, {})
            entries = [{key: value} for key, value in data.items()]  # so that each is looked at
            if get_origin(shape) is not dict:
                entries = [data] if data else []
            for entry in entries:
                try:
                    msgspec.convert(entry, shape)
                except msgspec.ValidationError as error:
                    problem, path = _problem(error, entry, shape)
                    self.refuse(name, path, f"{'.'.join(map(str, path)) or name}: {problem}")

    def catalogue(self) -> dict[str, CatalogueEntry]:
        catalogue: dict[str, CatalogueEntry] = {}
        for key, value in self.bundle.data.get("models", {}).items():
            try:
                entry = msgspec.convert(value, CatalogueEntry)
            except msgspec.ValidationError as error:
                path = _problem(error, value, CatalogueEntry)[1]
                self.refuse("models", (key, *path), f"model {key}: {error}")
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
            if not isinstance(ranges, list) or not all(isinstance(each, str) for each in ranges):
                continue  # its shape was refused
            for index, cidr in enumerate(ranges):
                try:
                    ipaddress.ip_network(cidr)
                except ValueError as error:
                    self.refuse("networks", (label, index), f"network {label}: {error}")
            networks[label] = tuple(ranges)
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


def _problem(
    error: msgspec.ValidationError, whole: Any, shape: Any
) -> tuple[str, strict_yaml.Path]:
    """What msgspec found in ``whole``, and where.

    It writes ``... - at `$.admits[0].min_tier[...]```, and keeps a mapping's key to itself.
    """
    text = str(error)
    problem, _, place = text.rpartition(" - at ")
    path: list[str | int] = []
    value = whole
    steps = _STEP.findall(place) + [("", "...")] * place.startswith("`key` in")
    for name, index in steps:
        step = int(index) if index.isdigit() else name or _blamed(whole, path, value, shape)
        try:
            value = value[step]
        except (LookupError, TypeError):  # the file's own text reads like a place
            return text, ()
        path.append(step)
    return in_words(problem or text), tuple(path)


def _blamed(whole: Any, path: Sequence[str | int], mapping: dict[str, Any], shape: Any) -> str:
    """The first key of the mapping at ``path`` that is refused when it stands there alone."""
    for key, value in mapping.items():
        try:
            msgspec.convert(_put(whole, path, {key: value}), shape)
        except msgspec.ValidationError:
            break
    return key


def _put(whole: Any, path: Sequence[str | int], part: Any) -> Any:
    if not path:
        return part
    changed = whole.copy()
    changed[path[0]] = _put(whole[path[0]], path[1:], part)
    return changed
