"""Directives: one Rego expression each, evaluated on its own, that can only take away.

A directive is a recall in the making: ``input.resource.id == "mythos-5"``. It answers *reached*,
*not reached*, or *cannot tell* when it reads a fact that this subject lacks. It reads the input
alone, by the same rules as policy does (``lint``). Several conditions that must all hold are
written as one expression: ``{input.a == 1, input.b == 2} == {true}``.

What a directive does to a decision is settled here, outside Rego: the stricter effect wins.
"""

from __future__ import annotations

from collections.abc import Sequence
from enum import StrEnum
from typing import Annotated, Literal

import msgspec
from msgspec import Meta, Struct

from gateway.core.decision import Decision, DecisionReason, Effect, strictest
from gateway.core.facts import Label
from gateway.core.protocols import EngineUnavailable
from gateway.policy.embedded import Interpreter, Undefined, syntax_tree
from gateway.policy.findings import BundleError
from gateway.policy.lint import check_modules
from gateway.policy.rego import Module
from gateway.policy.speed import maximal_facts, too_slow

__all__ = ["Answer", "Directive", "Directives", "withdraw"]

_PACKAGE = "directives"


class Directive(Struct, frozen=True, forbid_unknown_fields=True):
    """One recall.

    ``effect`` is what a call that is reached gets at least. ``unless_unknown`` says what a call
    gets for which the expression cannot tell: ``cut`` treats it as reached, ``keep`` does not.
    """

    id: Annotated[str, Meta(pattern=r"^[a-z0-9][a-z0-9_-]{0,47}\Z")]
    expression: Annotated[str, Meta(min_length=1, max_length=2000)]
    effect: Literal["deny", "step_up", "require_approval"] = "deny"
    unless_unknown: Literal["cut", "keep"] = "cut"
    message: Annotated[str, Meta(max_length=200)] = "access to this was withdrawn"
    remedy: Annotated[str, Meta(max_length=200)] = "Ask your organisation's administrator."

    @property
    def rule(self) -> Label:
        """The rule id in reasons."""
        return f"directive.{self.id}"


class Answer(StrEnum):
    """What a directive says of one set of facts."""

    REACHED = "reached"
    NOT_REACHED = "not_reached"
    UNKNOWN = "cannot_tell"


class Directives:
    """Directives that passed their checks; made and used in one thread.

    Args:
        directives: in the order in which they were decided.

    Raises:
        BundleError: an id stands twice; an expression is not one expression over the input, uses
            what the engines do not share, or takes over 5 ms on maximal facts.
    """

    def __init__(self, directives: Sequence[Directive] = ()) -> None:
        self.items = tuple(directives)
        self._modules = _checked(self.items)
        self._interpreter: Interpreter | None = None
        if self.items:
            self._interpreter = Interpreter(self._modules, {})
            findings = too_slow(self._interpreter, self._rules(), maximal_facts({}))
            if findings:
                raise BundleError(findings)

    def answers(self, facts: bytes) -> list[tuple[Directive, Answer]]:
        """Every directive's answer for canonical facts.

        Raises:
            EngineUnavailable: the facts could not be read; nobody knows who is reached.
        """
        if self._interpreter is None:
            return []
        if not self._interpreter.usable:
            self._interpreter = Interpreter(self._modules, {})
        self._interpreter.set_input(facts)
        pairs = zip(self.items, self._rules(), strict=True)
        return [(directive, self._answer(rule)) for directive, rule in pairs]

    def reached(self, facts: bytes) -> tuple[Directive, ...]:
        """The directives that take away from a call with these facts."""
        return tuple(
            directive
            for directive, answer in self.answers(facts)
            if answer is Answer.REACHED
            or (answer is Answer.UNKNOWN and directive.unless_unknown == "cut")
        )

    def _rules(self) -> Sequence[str]:
        return [f"data.{_PACKAGE}.d{index}" for index in range(len(self.items))]

    def _answer(self, rule: str) -> Answer:
        interpreter = self._interpreter
        if interpreter is None or not interpreter.usable:  # an earlier directive made it panic
            return Answer.UNKNOWN
        try:
            value = interpreter.evaluate(rule)
        except (Undefined, EngineUnavailable):
            return Answer.UNKNOWN
        return {"true": Answer.REACHED, "false": Answer.NOT_REACHED}.get(value, Answer.UNKNOWN)


def withdraw(decision: Decision, reached: Sequence[Directive]) -> Decision:
    """A decision after the directives that reach it.

    Where policy is already as strict, its answer stays: a model that it hides stays hidden. What
    the record keeps (``capture``, ``review``) is policy's in any case.
    """
    withdrawn = [
        msgspec.structs.replace(
            decision,
            effect=Effect(directive.effect),
            reasons=(
                DecisionReason(
                    code="access_withdrawn",
                    rule=directive.rule,
                    message=directive.message,
                    remedy=directive.remedy,
                ),
            ),
            model=None,
            limits=(),
        )
        for directive in reached
    ]
    return strictest([decision, *withdrawn])


def _checked(directives: Sequence[Directive]) -> dict[str, str]:
    """Each expression as a module of its own, by file name.

    Raises:
        BundleError: with every finding.
    """
    findings: list[str] = []
    texts: dict[str, str] = {}
    modules: list[Module] = []
    for index, directive in enumerate(directives):
        file = f"directive.{directive.id}"
        text = f"package {_PACKAGE}\nd{index} := {directive.expression}\n"
        if file in texts:
            findings.append(f"{file}: stands twice")
        texts[file] = text
        if not directive.expression.isprintable() or "#" in directive.expression:
            findings.append(f"{file}: one expression on one line, without a comment")
            continue
        try:
            module = Module(file, text, syntax_tree(file, text))
        except BundleError as error:
            findings += error.findings
            continue
        if len(module.rules) != 1 or module.rules[0].body.get("bodies") != []:
            findings.append(f"{file}: one expression, without a body or conditions")
        modules.append(module)
    findings += check_modules(modules, {})
    if findings:
        raise BundleError(findings)
    return texts
