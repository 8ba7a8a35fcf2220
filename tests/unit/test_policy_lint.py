"""Invariants of a bundle: each refusal, and its place; the small bundle itself passes."""

import json
import re

import msgspec
import pytest

from gateway.core.facts import Facts
from gateway.core.schema import input_schema
from gateway.policy import speed
from gateway.policy.bundle import BundleError
from gateway.policy.embedded import ENTRY_POINT, Interpreter
from gateway.policy.lint import check
from gateway.policy.portable import PORTABLE
from gateway.policy.revision import revision_of
from gateway.policy.speed import maximal_facts, too_slow
from tests.policy.small_bundle import MODELS, RULES, rules, small_bundle

LAST = RULES.count("\n") + 2
"""The line on which ``rules(...)`` puts its rule."""


def test_the_small_bundle_passes() -> None:
    assert check(small_bundle()) == []


@pytest.mark.parametrize(
    "body",
    [
        'r if crypto.sha256("a") == "b"',
        'r if net.cidr_contians("10.0.0.0/8", "10.0.0.1")',
        'r if http.send({"method": "get", "url": "https://example.com"})',
        "r if time.now_ns() > 3",
        'r if io.jwt.decode("a")',
        'r if rand.intn("a", 2) == 1',
        "r if opa.runtime().env",
        'r if helper("a")',
        'r if data.sluicegate.helper("a")',
        'r if data.other.helper("a")',
        'r if { some x in [1]; every y in [x] { crypto.md5("a") == y } }',
        'r if count({x | x := crypto.md5("a")}) == 1',
    ],
)
def test_k29_unknown_and_unportable_functions_are_refused_before_they_run(body: str) -> None:
    findings = check(rules(body))
    assert findings
    assert findings[0].startswith(f"sluicegate/decision.rego:{LAST}: ")
    assert "function" in findings[0] or "not in the bundle" in findings[0]


def test_k29_functions_of_the_bundle_are_called_in_their_own_package_or_by_full_name() -> None:
    function = "f(x) := x + 1\n\nr if "
    assert check(rules(function + "f(1) == 2")) == []
    assert check(rules(function + "data.sluicegate.f(1) == 2")) == []
    imported = RULES.replace(
        "package sluicegate\n", "package sluicegate\nimport data.sluicegate as s"
    )
    [finding] = check(small_bundle(rules=f"{imported}\n{function}s.f(1) == 2\n"))
    assert "by full name: data.sluicegate.f(...)" in finding


def test_every_portable_function_is_one_that_the_embedded_engine_has() -> None:
    def problem(name: str) -> str:
        interpreter = Interpreter({"a.rego": f"package a\nx := {name}()\n"}, {})
        try:
            interpreter._engine.eval_rule("data.a.x")
        except RuntimeError as error:
            return str(error)
        return ""

    assert "could not find function" in problem("no.such.function")
    for name in PORTABLE:
        assert "could not find function" not in problem(name)


@pytest.mark.parametrize("format_", ["%5d", "%q", "%x", "%.2f"])
def test_k31_formats_that_the_engines_print_differently_are_refused(format_: str) -> None:
    [finding] = check(rules(f'r := sprintf("{format_}", [1])'))
    assert "sprintf" in finding
    assert check(rules('r := sprintf("%s %d %v %%", ["a", 1, true])')) == []


@pytest.mark.parametrize("expression", ["1.5", "4 / 2", "input.context.targets.named / 2"])
def test_k31_floats_are_refused(expression: str) -> None:
    assert len(check(rules(f"r := {expression}"))) == 1


@pytest.mark.parametrize(
    ("path", "wrong"),
    [
        ("input.identty", "input.identty"),
        ("input.subject.properties.tires.cyber", "input.subject.properties.tires"),
        ('input.subject["properties"].statsu', "input.subject.properties.statsu"),
        ("input.subject.properties.vetting[_].lvl", "input.subject.properties.vetting.*.lvl"),
        ("input.subject.properties.engagement.ends", "input.subject.properties.engagement.ends"),
        ("input.resource.id.x", "input.resource.id.x"),
        ("data.modles", "data.modles"),
    ],
)
def test_k34_a_path_that_does_not_exist_is_refused(path: str, wrong: str) -> None:
    [finding] = check(rules(f"r if {path}"))
    assert f" {wrong} is not" in finding


@pytest.mark.parametrize(
    "path",
    [
        "input.subject.properties.tiers.cyber",
        "input.subject.properties.tiers[domain]",
        "input.subject.properties.vetting[_].level",
        "input.subject.properties.engagement.techniques[0]",
        'input.context.budgets["tokens"]',
        "data.models[input.resource.id].requires.tiers",
        "data.sluicegate.expired",
    ],
)
def test_k34_paths_that_exist_pass(path: str) -> None:
    assert check(rules(f"r if {path}")) == []


@pytest.mark.parametrize(
    ("body", "passes"),
    [
        ("r if input.context.time >= data.waves.first.opens_at", True),
        ('r if input.context["time"] < "2027-01-01T00:00:00Z"', True),
        ("r(at) if at <= input.context.time", True),
        ('r if input.context.time == "2027-01-01T00:00:00Z"', False),
        ("r := input.context.time", False),
        ("r if time.parse_rfc3339_ns(input.context.time) > 1", False),
        ('r if startswith(input.context.time, "2027")', False),
        ("r if input.context.time > 1 + 2", False),
        ("r := {input.context.time}", False),
        ("r := input.context", False),
        ('r := input.context[x] if some x in ["time"]', False),
        ("r := input", False),
    ],
)
def test_the_time_may_only_be_compared(body: str, passes: bool) -> None:
    assert (check(rules(body)) == []) is passes


def test_input_is_not_imported_under_another_name() -> None:
    renamed = RULES.replace(
        "package sluicegate\n", "package sluicegate\nimport input.context as c\n"
    )
    assert any("import input.context" in finding for finding in check(small_bundle(rules=renamed)))


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("package sluicegate\nallow := true\n", "is not defined"),
        ("package other\ndecision := {}\n", "is not defined"),
        ('package sluicegate\ndecision contains "a"\n', "not a complete rule"),
        ('package sluicegate\ndecision["effect"] := "allow"\n', "not a complete rule"),
        ('package sluicegate\ndecision.effect := "allow"\n', "not a complete rule"),
        ("package sluicegate\ndecision(x) := x\n", "not a complete rule"),
    ],
)
def test_k33_the_entry_point_is_one_complete_rule(text: str, words: str) -> None:
    assert any(words in finding for finding in check(small_bundle(rules=text)))


@pytest.mark.parametrize(
    ("change", "line", "words"),
    [
        (("id: opus", "id: opsu"), 12, "its id says opsu"),
        (("stage: trusted", "stge: trusted"), 1, "unknown field"),
        (("wires: [messages]", "wires: [message]"), 5, "Invalid enum value"),
        (("cyber: 3", "cyber: 10"), 8, "<= 9"),
        (("fallback: opus", "fallback: opsu"), 10, "not in the catalogue"),
        (("fallback: opus", "fallback: mythos-5"), 10, "falls back to itself"),
        (("[mythos-latest]", "[opus]"), 9, "already means opus"),
        (("[mythos-latest]", "[m, m]"), 9, "already means mythos-5"),
        (("2026-04-07T00:00:00Z", "2026-04-07"), 7, "timestamp"),
        (("2026-04-07T00:00:00Z", "2026-04-07T00:00:00+00:00"), 7, "created_at"),
        (("2026-04-07T00:00:00Z", "2026-13-07T00:00:00Z"), 7, "not a timestamp"),
        (("2026-04-07T00:00:00Z", "2026-04-07 00:00:00Z"), 7, "not a timestamp"),
    ],
)
def test_the_catalogue_is_refused_with_its_line(
    change: tuple[str, str], line: int, words: str
) -> None:
    changed = MODELS.replace(*change, 1)
    assert changed != MODELS
    findings = check(small_bundle(models=changed))
    assert any(re.match(rf"data/models\.yaml:{line}: .*{re.escape(words)}", f) for f in findings)


def test_other_data_is_refused_with_its_line() -> None:
    findings = check(
        small_bundle(
            waves='first:\n  opens_at: "2027-03-01"\nsecond: ["2027-02-30T00:00:00Z"]\n',
            networks="lab:\n  - 192.0.2.1/24\n  - host\nother: 10.0.0.0/8\n",
        )
    )
    places = {finding.rpartition(": ")[0].split(": ")[0] for finding in findings}
    assert places == {
        "data/waves.yaml:2",
        "data/waves.yaml:3",
        "data/networks.yaml:2",
        "data/networks.yaml:3",
        "data/networks.yaml:4",
    }


def test_an_empty_catalogue_and_a_rule_id_that_stands_twice_are_refused() -> None:
    assert any("no model" in finding for finding in check(small_bundle(models=None)))
    again = rules('again := {"rule": "tiers.insufficient"}')
    assert any(f":{LAST}: rule id tiers.insufficient" in finding for finding in check(again))


def test_k36_a_syntax_error_is_told_with_its_place_and_without_a_backtrace() -> None:
    findings = check(small_bundle(rules="package sluicegate\nx if {\n"))
    assert findings == ["sluicegate/decision.rego:3: expecting expression"]


def test_the_revision_is_what_the_gateway_reads() -> None:
    revision = revision_of(rules('x := "2028-01-01T00:00:00Z"'))
    assert revision.id.startswith("sha256:")
    assert revision.catalogue["mythos-5"].requires.tiers == {"cyber": 3}
    assert revision.aliases == {"mythos-latest": "mythos-5"}
    assert (
        revision.rules["tiers.insufficient"].file,
        revision.rules["tiers.insufficient"].line,
    ) == (
        "sluicegate/decision.rego",
        5,
    )
    assert list(revision.instants) == [1769904000, 1775520000, 1803891600, 1830297600]
    assert revision.networks == {"lab": ("192.0.2.0/24",)}
    with pytest.raises(BundleError):
        revision_of(small_bundle(models=None))


def test_maximal_facts_are_facts_and_hold_much() -> None:
    cases = [msgspec.json.decode(raw, type=Facts) for raw in maximal_facts(small_bundle().data)]
    assert {case.resource.id for case in cases} == {"mythos-5", "opus", "unknown"}
    assert all(len(case.subject.properties.vetting) == 16 for case in cases)
    assert all(case.subject.properties.engagement is not None for case in cases)
    assert json.loads(input_schema())["type"] == "object"


def test_what_takes_over_5_ms_is_refused() -> None:
    slow = rules("r := count([1 | some i in numbers.range(1, 200000)])")
    interpreter = Interpreter(slow.modules, slow.data)
    facts = maximal_facts(slow.data)
    assert too_slow(interpreter, [ENTRY_POINT], facts) == []
    [finding] = too_slow(interpreter, ["data.sluicegate.r"], facts[:1])
    assert "at most 5 ms" in finding
    assert speed.MAX_DECISION_S == 0.005
