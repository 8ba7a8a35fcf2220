"""The embedded engine: Rego in this process, by regorus (tree-walking, builtin errors strict).

This is the only module that imports regorus, and the place where its traps are closed:

* an engine belongs to the thread that made it; use from another raises a ``PanicException``,
  which is a ``BaseException``. The thread is checked first, and a panic is caught by name;
* nor may it be dropped in another thread, and the collector may run in any: each thread keeps
  its own engines until it can drop them itself;
* after a failed ``set_input_json`` the previous input stays: that engine is never asked again;
* undefined comes back as a string, which is no decision;
* its error text holds a native backtrace and may quote the input: only the place is kept.
"""

from __future__ import annotations

import json
import re
import threading
from collections import deque
from collections.abc import Mapping
from typing import Any

import regorus

from gateway.core.decision import Decision, parse_decision
from gateway.core.protocols import EngineUnavailable, Revision
from gateway.policy.bundle import Bundle, packages
from gateway.policy.findings import BundleError

__all__ = ["ENTRY_POINT", "EmbeddedEngine", "Interpreter", "Undefined", "run_tests", "syntax_tree"]

ENTRY_POINT = "data.sluicegate.decision"
_UNDEFINED = '"<undefined>"'

_PLACE = re.compile(r"--> ([^\s:]+:\d+):\d+")
_PROBLEM = re.compile(r"^error: (.{1,200})$", re.MULTILINE)
_TEST_RULE = re.compile(r"^(test_[A-Za-z0-9_]*)\b", re.MULTILINE)


class Undefined(Exception):
    """A rule has no value for this input."""


class _Home(threading.local):
    """The engines that this thread made, and the ids of those that nobody uses any more."""

    def __init__(self) -> None:
        self.engines: dict[int, regorus.Engine] = {}
        self.forsaken: deque[int] = deque()

    def engine(self) -> regorus.Engine:
        while self.forsaken:
            self.engines.pop(self.forsaken.popleft(), None)
        engine = regorus.Engine()
        self.engines[id(engine)] = engine
        return engine


_HOME = _Home()
"""Thread-local on purpose: it holds what only its own thread may touch."""


class Interpreter:
    """One regorus engine with a policy loaded, for the thread that made it.

    Args:
        modules: Rego v1 text by path.
        data: the ``data`` document.

    Raises:
        BundleError: a module does not parse, or modules and data contradict one another.
    """

    def __init__(self, modules: Mapping[str, str], data: Mapping[str, Any]) -> None:
        self._thread = threading.get_ident()
        self._spoilt = False
        self._engine = _HOME.engine()
        self._home, self._forsaken = _HOME.engines, _HOME.forsaken
        findings = []
        for path, text in modules.items():
            try:
                self._engine.add_policy(path, text)
            except RuntimeError as error:
                findings.append(_describe_load(path, error))
        try:
            self._engine.add_data_json(json.dumps(data))
        except RuntimeError as error:
            findings.append(_describe_load("data", error))
        if findings:
            raise BundleError(findings)

    def __del__(self) -> None:
        if threading.get_ident() == self._thread:
            self._home.pop(id(self._engine), None)
        else:
            self._forsaken.append(id(self._engine))  # its thread drops it with the next one

    @property
    def usable(self) -> bool:
        """Whether this engine may be asked again, here."""
        return not self._spoilt and threading.get_ident() == self._thread

    def set_input(self, facts: bytes) -> None:
        """Set what the next evaluations read.

        Raises:
            EngineUnavailable: the input was not taken; this engine is spoilt.
        """
        self._check()
        try:
            self._engine.set_input_json(facts.decode())
        except (RuntimeError, UnicodeDecodeError):
            self._spoilt = True
        except BaseException as error:
            if not self._panicked(error):
                raise
        if self._spoilt:
            raise EngineUnavailable("the engine did not take the facts")

    def evaluate(self, rule: str) -> str:
        """The JSON value of a rule by its full path (``data.package.rule``).

        Raises:
            Undefined: the rule has no value.
            EngineUnavailable: a builtin failed, rules conflict, or the engine panicked.
        """
        self._check()
        value = problem = ""
        try:
            value = self._engine.eval_rule_as_json(rule)
        except RuntimeError as error:
            problem = "evaluation failed" + _place(error)
        except BaseException as error:
            if not self._panicked(error):
                raise
            problem = "the engine panicked"
        # Raised out here, so that no native error text hangs on as the cause.
        if problem:
            raise EngineUnavailable(problem)
        if value == _UNDEFINED:
            raise Undefined(rule)
        return value

    def decide(self, facts: bytes) -> Decision:
        """The decision on these facts.

        Raises:
            EngineUnavailable: for everything that is not a valid decision.
        """
        self.set_input(facts)
        try:
            return parse_decision(self.evaluate(ENTRY_POINT).encode())
        except Undefined:
            raise EngineUnavailable("the decision is undefined") from None
        except ValueError as error:
            raise EngineUnavailable(str(error)) from None

    def syntax(self) -> str:
        """The parsed modules, as JSON."""
        self._check()
        return str(self._engine.get_ast_as_json())

    def _check(self) -> None:
        if threading.get_ident() != self._thread:
            raise EngineUnavailable("the engine belongs to another thread")
        if self._spoilt:
            raise EngineUnavailable("the engine is spoilt")

    def _panicked(self, error: BaseException) -> bool:
        """Whether this is regorus's panic, whose class cannot be imported; spoils the engine."""
        panic = type(error).__name__ == "PanicException"
        self._spoilt = self._spoilt or panic
        return panic


class EmbeddedEngine:
    """The default engine. ``adopt`` and ``decide`` belong to one thread: the event loop's."""

    def __init__(self) -> None:
        self._revision: Revision | None = None
        self._bundle: Bundle | None = None
        self._interpreter: Interpreter | None = None

    @property
    def revision(self) -> Revision | None:
        """The active revision; ``None`` before the first."""
        return self._revision

    async def adopt(self, bundle: Bundle, revision: Revision) -> None:
        """Put a bundle in the place of the one before, at once and whole.

        Raises:
            EngineUnavailable: it does not load; the one before stays.
        """
        try:
            interpreter = Interpreter(bundle.modules, bundle.data)
        except BundleError as error:
            raise EngineUnavailable(str(error)) from None
        self._interpreter, self._bundle, self._revision = interpreter, bundle, revision

    async def decide(self, facts: bytes) -> Decision:
        """Evaluate facts; never suspends, so no other call or swap comes between.

        Raises:
            EngineUnavailable: for everything that is not a valid decision.
        """
        return self._ready().decide(facts)

    async def health(self) -> bool:
        """Whether a decision could be made now."""
        return self._bundle is not None

    def _ready(self) -> Interpreter:
        if self._bundle is None or self._interpreter is None:
            raise EngineUnavailable("no policy has been activated")
        if not self._interpreter.usable:
            # Made anew here: after a panic, after refused input, or for a loop in a new thread.
            self._interpreter = Interpreter(self._bundle.modules, self._bundle.data)
        return self._interpreter


def syntax_tree(path: str, text: str) -> dict[str, Any]:
    """The parsed module: ``package``, ``imports`` and ``rules``, as regorus writes them.

    Raises:
        BundleError: it does not parse.
    """
    tree: dict[str, Any] = json.loads(Interpreter({path: text}, {}).syntax())[0]["ast"]
    return tree


def run_tests(bundle: Bundle) -> list[str]:
    """Run every ``test_*`` rule of the bundle's tests.

    Returns:
        A finding for each that is not true, that fails, or that is missing altogether.
    """
    try:
        interpreter = Interpreter({**bundle.modules, **bundle.tests}, bundle.data)
    except BundleError as error:
        return list(error.findings)
    declared = packages(bundle.tests)
    failures = []
    ran = 0
    for path, text in bundle.tests.items():
        for name in sorted(set(_TEST_RULE.findall(text))):
            ran += 1
            line = text[: text.index(f"\n{name}") + 1].count("\n") + 1
            try:
                value = interpreter.evaluate(f"data.{declared[path]}.{name}")
            except Undefined:
                value = "undefined"
            except EngineUnavailable as error:
                value = str(error)
            if value != "true":
                failures.append(f"{path}:{line}: {name} failed: {value[:200]}")
    if not ran:
        failures.append("the bundle has no test: no test_* rule in a *_test.rego file")
    return failures


def _describe_load(path: str, error: RuntimeError) -> str:
    """A finding about text that its author wrote: place and problem, without the backtrace."""
    text = str(error).partition("Stack backtrace:")[0]
    place, problem = _PLACE.search(text), _PROBLEM.search(text)
    first = text.strip().splitlines()[:1]
    return f"{place[1] if place else path}: {problem[1] if problem else ' '.join(first)}"


def _place(error: RuntimeError) -> str:
    match = _PLACE.search(str(error))
    return f" at {match[1]}" if match else ""
