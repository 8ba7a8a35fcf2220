"""How long a decision may take, measured before it is let near a stream.

The embedded engine has no deadline, so a bundle or directive that is slow on facts which hold
much of everything is refused.
"""

from __future__ import annotations

import json
import re
import statistics
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from typing import Any

import msgspec

from gateway.core.facts import UNKNOWN_MODEL
from gateway.core.protocols import EngineUnavailable
from gateway.core.schema import input_schema
from gateway.policy.embedded import Interpreter, Undefined

__all__ = ["MAX_DECISION_S", "maximal_facts", "too_slow"]

MAX_DECISION_S = 0.005

_RUNS = 5
_MANY = 16
"""How many entries each open list of the maximal facts holds."""


def maximal_facts(data: Mapping[str, Any]) -> list[bytes]:
    """Facts that hold much of everything, one for each model and one for an unknown model.

    The labels are the ones that the data uses, so that rules match and go on.
    """
    labels = sorted(set(_labels(data))) or ["a"]
    models = [*data.get("models", {}), UNKNOWN_MODEL]
    filled = _fill(json.loads(input_schema()), labels)
    filled["context"]["time"] = "2026-11-23T12:00:00Z"
    facts = []
    for model in models:
        filled["resource"]["id"] = model
        facts.append(msgspec.json.encode(filled))
    return facts


def _fill(schema: Mapping[str, Any], labels: Sequence[str]) -> Any:
    schema = next((arm for arm in schema.get("anyOf", ()) if arm.get("type") != "null"), schema)
    match schema.get("type"):
        case "object" if "properties" in schema:
            return {name: _fill(value, labels) for name, value in schema["properties"].items()}
        case "object":
            return {name: _fill(schema["additionalProperties"], labels) for name in labels[:_MANY]}
        case "array":
            return schema["items"].get("enum") or [
                _fill(schema["items"], labels[i % len(labels) :]) for i in range(_MANY)
            ]
        case "integer" | "boolean":
            return schema.get("maximum", True)
        case _:
            return schema["enum"][0] if "enum" in schema else _string(schema["pattern"], labels)


def _string(pattern: str, labels: Sequence[str]) -> str:
    if pattern.startswith(r"^\d{4}"):
        return "2027-01-01T00:00:00Z"
    return "GB" if pattern.startswith("^[A-Z]{2}") else labels[0]


def _labels(value: Any) -> Iterator[str]:
    """Keys and strings of the data that could be labels."""
    if isinstance(value, str) and re.fullmatch(r"[a-z0-9][a-z0-9_.:-]{0,63}", value):
        yield value
    elif isinstance(value, dict):
        for key, child in value.items():
            yield from _labels(key)
            yield from _labels(child)
    elif isinstance(value, list):
        for child in value:
            yield from _labels(child)


def too_slow(interpreter: Interpreter, rules: Sequence[str], facts: Sequence[bytes]) -> list[str]:
    """Measure evaluations: the median of several, in CPU time of this thread, for each input.

    Returns:
        A finding for each rule that needs more than ``MAX_DECISION_S`` on any of the facts.
    """
    findings = []
    for rule in rules:
        worst = max((_median_s(interpreter, rule, one) for one in facts), default=0.0)
        if worst > MAX_DECISION_S:
            findings.append(
                f"{rule} takes {worst * 1000:.1f} ms on maximal facts; "
                f"at most {MAX_DECISION_S * 1000:.0f} ms are allowed"
            )
    return findings


def _median_s(interpreter: Interpreter, rule: str, facts: bytes) -> float:
    runs: list[float] = []
    with suppress(Undefined, EngineUnavailable):
        interpreter.set_input(facts)
        interpreter.evaluate(rule)  # the first evaluation compiles
    while len(runs) < _RUNS and sum(runs) < 20 * MAX_DECISION_S:
        begun = time.thread_time()
        interpreter.set_input(facts)
        with suppress(Undefined, EngineUnavailable):  # how long it took is all that is asked
            interpreter.evaluate(rule)
        runs.append(time.thread_time() - begun)
    return statistics.median(runs)
