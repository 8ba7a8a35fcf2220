"""The shipped policy: well made, tested whole, and answering as the golden cases say.

Everything runs twice: in the real OPA and in the embedded engine, which must agree.
"""

from __future__ import annotations

import json
import re
import subprocess
from collections import Counter
from pathlib import Path
from typing import Any

import msgspec
import pytest
import regorus
from facts_factory import POLICIES, facts, generate, sample_data
from golden_cases import CASES, GOLDEN, decide, engine, gist, rules

from gateway.core.catalogue import CatalogueEntry
from gateway.core.decision import parse_decision
from gateway.core.facts import Facts
from gateway.core.schema import input_schema
from gateway.policy.portable import PORTABLE

RULES = POLICIES / "sluicegate"
CHECK = [
    "check",
    "--strict",
    "--capabilities",
    str(POLICIES / "capabilities.json"),
    "--schema",
    str(POLICIES / "schemas" / "input.json"),
]
TEST_RULES = [
    (path.name, name)
    for path in sorted(RULES.glob("*_test.rego"))
    for name in re.findall(r"^(test_\w+) if", path.read_text(), re.MULTILINE)
]
OPERATORS = frozenset(
    "assign eq equal neq gt gte lt lte plus minus mul rem and or "
    "internal.member_2 internal.member_3".split()
)
SAMPLE = sample_data()
MODELS: dict[str, dict[str, Any]] = SAMPLE["models"]


def golden() -> list[dict[str, Any]]:
    return [json.loads(path.read_text()) for path in sorted(GOLDEN.glob("*.json"))]


def codes_in_rules() -> set[str]:
    found = re.findall(r'"code": "([^"]+)"', "\n".join(rules().values()))
    assert len(found) == len(set(found)), "a code belongs to one rule"
    return set(found)


def opa(binary: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [binary, *arguments], capture_output=True, text=True, timeout=120, check=False
    )


def opa_decisions(binary: str, cases: list[dict[str, Any]], tmp_path: Path) -> list[Any]:
    """What OPA answers to many facts, in one run, with strict builtin errors."""
    data, given = tmp_path / "data.json", tmp_path / "input.json"
    data.write_text(json.dumps(SAMPLE))
    given.write_text(json.dumps({"cases": cases}))
    sources = [argument for name in rules() for argument in ("-d", str(RULES / name))]
    query = "[d | some c in input.cases; d := data.sluicegate.decision with input as c]"
    run = opa(
        binary,
        "eval",
        "--strict-builtin-errors",
        *sources,
        "-d",
        str(data),
        "-i",
        str(given),
        query,
    )
    assert run.returncode == 0, run.stdout + run.stderr
    return json.loads(run.stdout)["result"][0]["expressions"][0]["value"]


# Well made


@pytest.mark.needs("opa")
def test_rules_are_formatted(opa_binary: str) -> None:
    run = opa(opa_binary, "fmt", "--fail", "--diff", str(RULES))
    assert run.returncode == 0, run.stdout


@pytest.mark.needs("opa")
def test_rules_pass_the_strict_check(opa_binary: str) -> None:
    run = opa(opa_binary, *CHECK, str(RULES))
    assert run.returncode == 0, run.stdout + run.stderr


@pytest.mark.needs("opa")
@pytest.mark.parametrize(
    "body",
    [
        "x := input.subject.propertys.status",
        "x := input.context.score",
        'x := crypto.sha256("a")',
        "x := time.now_ns()",
        'x := http.send({"method": "GET", "url": "http://127.0.0.1"})',
        "x := 1 / 2",
        'x := $"{input.resource.id}"',
        "x if { y := 1 }",
    ],
)
def test_k29_the_check_refuses_what_is_not_portable(
    opa_binary: str, tmp_path: Path, body: str
) -> None:
    module = tmp_path / "bad.rego"
    module.write_text(f"package bad\n\n{body}\n")
    assert opa(opa_binary, *CHECK, str(module)).returncode != 0
    module.write_text("package good\n\nx := input.subject.properties.status\n")
    assert opa(opa_binary, *CHECK, str(module)).returncode == 0


def test_capabilities_are_the_portable_builtins() -> None:
    capabilities = json.loads((POLICIES / "capabilities.json").read_text())
    assert {builtin["name"] for builtin in capabilities["builtins"]} == PORTABLE | OPERATORS
    assert capabilities["allow_net"] == []


def test_the_input_schema_is_current() -> None:
    assert (POLICIES / "schemas" / "input.json").read_text() == input_schema()


# Tested whole


@pytest.mark.needs("opa")
def test_opa_passes_every_test_and_covers_every_line(opa_binary: str) -> None:
    run = opa(opa_binary, "test", str(RULES))
    assert run.returncode == 0, run.stdout + run.stderr
    assert f"PASS: {len(TEST_RULES)}/{len(TEST_RULES)}" in run.stdout
    run = opa(opa_binary, "test", "--coverage", "--threshold", "100", str(RULES))
    assert run.returncode == 0, run.stdout + run.stderr
    report = json.loads(run.stdout)["files"]
    for name in rules():
        assert not report[str(RULES / name)].get("not_covered"), name


@pytest.fixture(scope="module")
def tests_engine() -> regorus.Engine:
    loaded = regorus.Engine()
    for path in sorted(RULES.glob("*.rego")):
        loaded.add_policy(path.name, path.read_text())
    loaded.add_data_json("{}")
    loaded.set_input_json("{}")
    return loaded


@pytest.mark.parametrize(("file", "name"), TEST_RULES)
def test_the_embedded_engine_passes(tests_engine: regorus.Engine, file: str, name: str) -> None:
    assert tests_engine.eval_rule_as_json(f"data.sluicegate_test.{name}") == "true", file


def test_rule_ids_and_codes_stand_once() -> None:
    ids = re.findall(r'"rule": "([^"]+)"', "\n".join(rules().values()))
    assert len(ids) == len(set(ids)) == len(codes_in_rules())
    assert all(re.fullmatch(r"[a-z0-9][a-z0-9_.:-]{0,63}", rule) for rule in ids)


# The data


def test_models_decode_as_catalogue_entries() -> None:
    for key, value in MODELS.items():
        entry = msgspec.convert(value, CatalogueEntry)
        assert entry.id == key
        assert entry.fallback is None or entry.fallback in MODELS
        assert entry.stage in SAMPLE["stages"]
        assert entry.wave is None or entry.wave in SAMPLE["waves"]
        assert entry.requires.tiers.keys() | entry.classes.keys() <= SAMPLE["tiers"].keys()
        assert set(entry.requires.purposes) <= SAMPLE["purposes"].keys()
        assert set(entry.requires.networks) <= SAMPLE["networks"].keys()


def test_a_level_0_member_may_call_a_model_on_each_generating_wire() -> None:
    open_models = [model for model in MODELS.values() if not model.get("restricted", True)]
    general = [model for model in open_models if model["stage"] == "general"]
    wires = {wire for model in general for wire in model["wires"]}
    assert wires >= {"chat", "responses", "embeddings", "messages", "count_tokens"}


def test_every_released_stage_has_limits() -> None:
    released = {name for name, stage in SAMPLE["stages"].items() if not stage.get("retired")}
    assert released == SAMPLE["limits"]["stages"].keys()


# What it answers


def test_golden_files_are_those_of_the_cases() -> None:
    assert {case["name"]: case["facts"] for case in golden()} == {
        name: facts(**case.overrides) for name, case in CASES.items()
    }


def test_golden_cases_cover_every_effect_and_code() -> None:
    decisions = [case["decision"] for case in golden()]
    assert {code for decision in decisions for code in gist(decision)[1]} == codes_in_rules()
    assert len({decision["effect"] for decision in decisions}) == 5


@pytest.mark.parametrize("case", golden(), ids=lambda case: case["name"])
def test_the_embedded_engine_answers_as_golden(case: dict[str, Any]) -> None:
    expected = CASES[case["name"]]
    decision = decide(engine(), case["facts"])
    assert decision == case["decision"]
    assert gist(decision) == (expected.effect, expected.codes)
    for reason in decision["reasons"]:
        assert len(reason["message"]) <= 60


@pytest.mark.needs("opa")
def test_opa_answers_as_golden(opa_binary: str, tmp_path: Path) -> None:
    cases = golden()
    answers = opa_decisions(opa_binary, [case["facts"] for case in cases], tmp_path)
    assert answers == [case["decision"] for case in cases]


def test_unknown_and_embargoed_are_one_answer() -> None:
    loaded = engine()
    for document in generate(seed=7, n=300):
        document["subject"]["properties"]["roles"] = []
        answers = []
        for model in ("mythos-6", "unknown", "Nobody/knows-it"):
            document["resource"]["id"] = model
            answers.append(decide(loaded, document))
        assert answers[0] == answers[1] == answers[2]


def test_one_line_of_tiers_opens_mythos_to_the_newcomer() -> None:
    tiers = (POLICIES / "data" / "tiers.yaml").read_text()
    newcomer = next(case["facts"] for case in golden() if case["name"] == "newcomer-mythos")
    changed = sample_data()
    assert tiers.count("open_evaluation: 0\n") == 2  # cyber first, then bio
    changed["tiers"]["cyber"]["open_evaluation"] = 3
    loaded = engine()
    assert decide(loaded, newcomer)["reasons"][0]["message"] == "needs cyber 3, has 0"
    loaded.clear_data()
    loaded.add_data_json(json.dumps(changed))
    assert decide(loaded, newcomer)["effect"] == "allow"


# Facts drawn at random


def test_generated_facts_are_valid_and_reach_every_effect() -> None:
    """Each effect takes at least 15 % of 10,000, and every answer is a whole decision."""
    loaded = engine()
    effects: Counter[str] = Counter()
    codes: set[str] = set()
    drawn = generate(seed=20261123, n=10_000)
    for document in drawn:
        msgspec.convert(document, Facts)
        decision = decide(loaded, document)
        assert decision.keys() >= {"effect", "reasons", "limits", "capture", "review"}
        parse_decision(json.dumps(decision).encode())
        effects[decision["effect"]] += 1
        codes.update(gist(decision)[1])
    assert min(effects[name] for name in effects) >= 1500, effects
    assert len(effects) == 5
    assert codes == codes_in_rules()
    assert generate(seed=20261123, n=50) == drawn[:50]


@pytest.mark.needs("opa")
def test_both_engines_agree_on_drawn_facts(opa_binary: str, tmp_path: Path) -> None:
    drawn = generate(seed=4, n=1000)
    loaded = engine()
    assert opa_decisions(opa_binary, drawn, tmp_path) == [decide(loaded, one) for one in drawn]
