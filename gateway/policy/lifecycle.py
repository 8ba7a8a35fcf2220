"""The life of a revision: candidate, verified, tested, active.

A bundle becomes active whole or not at all; whatever goes wrong on the way leaves the last good
one in place, with the reasons. Before the first activation nothing is ready. Checks and tests
run in a thread, so that running streams go on.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any, Protocol

import msgspec

from gateway.core.decision import Decision, parse_decision
from gateway.core.protocols import EngineUnavailable, PolicyEngine, Revision
from gateway.policy import lint
from gateway.policy.bundle import Bundle
from gateway.policy.embedded import ENTRY_POINT, Interpreter, run_tests
from gateway.policy.findings import BundleError
from gateway.policy.revision import revision_of
from gateway.policy.speed import maximal_facts, too_slow

__all__ = ["Activation", "AdoptingEngine", "Golden", "Lifecycle", "Stage", "examine", "read_golden"]


class Stage(StrEnum):
    """How far a bundle has come."""

    CANDIDATE = "candidate"
    VERIFIED = "verified"
    TESTED = "tested"
    ACTIVE = "active"


class AdoptingEngine(PolicyEngine, Protocol):
    """An engine that can be given a bundle."""

    async def adopt(self, bundle: Bundle, revision: Revision) -> None:
        """Make it the active one.

        Raises:
            EngineUnavailable: it did not; the one before stays.
        """


@dataclass(frozen=True, slots=True)
class Golden:
    """Facts whose decision is known: canonical JSON, and what must come out."""

    name: str
    facts: bytes
    decision: Decision


@dataclass(frozen=True, slots=True)
class Activation:
    """What came of one attempt. ``findings`` are empty exactly where ``stage`` is ``active``.

    ``previous`` is the revision that was active before the attempt, and still is if it failed.
    """

    revision: str
    previous: str | None
    stage: Stage
    findings: tuple[str, ...] = ()

    @property
    def active(self) -> bool:
        """Whether the bundle is now the active one."""
        return self.stage is Stage.ACTIVE


class Lifecycle:
    """Takes bundles to an engine, one at a time.

    Args:
        engine: what evaluates the active revision.
        golden: facts that every bundle must decide as written.
        publish: where engines that pull get the archive from: called with the candidate before
            the engine adopts it, and with the bundle before if it does not.
        examined: bundles come from a process that has examined them, and may already be pulled
            from it: they are adopted without a second look, which would leave a time in which an
            engine that pulls answers from a revision that nobody awaits.
    """

    def __init__(
        self,
        engine: AdoptingEngine,
        *,
        golden: Sequence[Golden] = (),
        publish: Callable[[Bundle], None] | None = None,
        examined: bool = False,
    ) -> None:
        self._engine = engine
        self._examined = examined
        self._golden = golden
        self._publish = publish or (lambda _: None)
        self._one_at_a_time = asyncio.Lock()
        self._active: Bundle | None = None
        self._last: Activation | None = None
        self._underway: tuple[str, Stage] | None = None

    @property
    def active(self) -> Bundle | None:
        """The active bundle: the last known good one."""
        return self._active

    @property
    def last(self) -> Activation | None:
        """The last attempt, for status."""
        return self._last

    @property
    def underway(self) -> tuple[str, Stage] | None:
        """The revision that is being activated now, and how far it has come."""
        return self._underway

    async def activate(self, bundle: Bundle) -> Activation:
        """Try to make a bundle the active one. Never raises for what is wrong with it."""
        async with self._one_at_a_time:
            try:
                self._last = await self._attempt(bundle)
            finally:
                self._underway = None
            return self._last

    async def _attempt(self, bundle: Bundle) -> Activation:
        previous = self._active.id if self._active else None

        def refused(stage: Stage, findings: Sequence[str]) -> Activation:
            return Activation(bundle.id, previous, stage, tuple(findings))

        if not self._examined:
            self._underway = (bundle.id, Stage.CANDIDATE)
            findings = await asyncio.to_thread(lint.check, bundle)
            if findings:
                return refused(Stage.CANDIDATE, findings)
            self._underway = (bundle.id, Stage.VERIFIED)
            findings = await asyncio.to_thread(_trial, bundle, self._golden)
            if findings:
                return refused(Stage.VERIFIED, findings)
        self._underway = (bundle.id, Stage.TESTED)
        self._publish(bundle)
        try:
            await self._engine.adopt(bundle, revision_of(bundle))
        except EngineUnavailable as error:
            if self._active is not None:
                self._publish(self._active)
            return refused(Stage.TESTED, [str(error)])
        self._active = bundle
        return Activation(bundle.id, previous, Stage.ACTIVE)


def examine(bundle: Bundle, golden: Sequence[Golden] = ()) -> list[str]:
    """All that would keep a bundle from becoming active, without activating it."""
    return lint.check(bundle) or _trial(bundle, golden)


def _trial(bundle: Bundle, golden: Sequence[Golden]) -> list[str]:
    """The bundle's own tests, the golden facts, and the time that maximal facts take."""
    findings = run_tests(bundle)
    if findings:
        return findings
    interpreter = Interpreter(bundle.modules, bundle.data)
    for case in golden:
        problem = _differs(interpreter, case)
        if problem:
            findings.append(f"golden {case.name}: {problem}")
    return findings or too_slow(interpreter, [ENTRY_POINT], maximal_facts(bundle.data))


def _differs(interpreter: Interpreter, case: Golden) -> str | None:
    try:
        decision = interpreter.decide(case.facts)
    except EngineUnavailable as error:
        return str(error)
    if decision == case.decision:
        return None
    return f"decides {decision.effect} {[reason.rule for reason in decision.reasons]}"


def read_golden(path: Path) -> list[Golden]:
    """Read every ``*.json`` below a directory: ``{name, facts, decision}`` or a list of them.

    Raises:
        BundleError: a file is of another form.
    """
    cases = []
    for file in sorted(path.glob("**/*.json")):
        try:
            content: Any = msgspec.json.decode(file.read_bytes())
            for case in content if isinstance(content, list) else [content]:
                decision = parse_decision(msgspec.json.encode(case["decision"]))
                facts = msgspec.json.encode(case["facts"])
                cases.append(Golden(str(case["name"]), facts, decision))
        except (ValueError, TypeError, KeyError) as error:
            raise BundleError([f"{file.name}: not a golden case: {error}"]) from None
    return cases
