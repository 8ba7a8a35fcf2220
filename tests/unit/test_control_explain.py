"""Recorded decisions made again, and the rules they came from."""

import re
from pathlib import Path

import msgspec
import pytest

from gateway.audit.records import DecisionRef, ReasonRef
from gateway.control.explain import NotExplained, explain, rule_text
from gateway.core.clock import parse_timestamp, timestamp
from gateway.policy.bundle import read_directory
from gateway.policy.embedded import Interpreter, syntax_tree
from gateway.policy.judge import encode_facts
from gateway.policy.revision import revision_of
from gateway.policy.validity import valid_until
from tests.policy.small_bundle import RULES, rules, small_bundle, small_facts

BUNDLE = small_bundle()
POLICIES = read_directory(Path(__file__).parents[2] / "policies")
DOWNGRADES = rules(
    """
decision := {
	"effect": "downgrade",
	"model": "opus",
	"reasons": [{"code": "tier", "rule": "tiers.substitute", "message": "m", "remedy": "r"}],
	"capture": "metadata",
} if {
	input.resource.id == "mythos-5"
	input.subject.properties.tiers.cyber == 0
} else := {"effect": "allow", "capture": "sealed", "review": true} if {
	input.resource.id == "opus"
	input.subject.properties.tiers.cyber == 0
}
"""
)


def recorded(facts, bundle=BUNDLE, **changes):
    """The record of a decision, as the gateway writes it, and the facts beside it."""
    raw = encode_facts(facts)
    decision = Interpreter(bundle.modules, bundle.data).decide(raw)
    now = parse_timestamp(facts.context.time)
    ref = DecisionRef(
        effect=decision.effect,
        revision=bundle.id,
        reasons=tuple(ReasonRef(code=r.code, rule=r.rule) for r in decision.reasons),
        valid_until=timestamp(valid_until(raw, now, revision_of(bundle).instants, decision)),
        capture=decision.capture,
        review=decision.review,
    )
    ref = msgspec.structs.replace(ref, **changes)
    return {"decision": msgspec.to_builtins(ref), "model": {"requested": "mythos-5"}}, raw


def test_the_same_decision_comes_out_with_the_rule_that_gave_it():
    record, facts = recorded(small_facts(cyber=1))
    found = explain(record, facts, BUNDLE)
    assert (found.same, found.differences, found.revision) == (True, (), BUNDLE.id)
    (reason,) = found.reasons
    assert (reason.code, reason.rule, reason.message) == ("tier", "tiers.insufficient", "m")
    assert (reason.source.file, reason.source.line) == ("sluicegate/decision.rego", 5)
    assert reason.source.first == 3
    assert reason.source.text == RULES.split("\n\n")[1]
    allowed = explain(*recorded(small_facts()), BUNDLE)
    assert (allowed.same, allowed.reasons, allowed.decision.effect) == (True, (), "allow")


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"effect": "allow"}, "effect: recorded allow, now deny"),
        ({"reasons": ()}, "reasons: recorded none, now tier (tiers.insufficient)"),
        ({"valid_until": "2026-11-23T12:00:30Z"}, "valid_until: recorded 2026-11-23T12:00:30Z, "),
        ({"capture": "sealed"}, "capture: recorded sealed, now digest"),
        ({"review": True}, "review: recorded yes, now no"),
        ({"directives": ("recall-1",)}, "directive recall-1 reached the call"),
    ],
)
def test_each_thing_that_differs_is_named(change, told):
    found = explain(*recorded(small_facts(cyber=1), **change), BUNDLE)
    assert not found.same
    (difference,) = found.differences
    assert difference.startswith(told)


def test_other_facts_do_not_give_the_recorded_decision():
    record, _ = recorded(small_facts(cyber=1))
    found = explain(record, encode_facts(small_facts(cyber=3)), BUNDLE)
    assert not found.same
    assert found.differences[0] == "effect: recorded deny, now allow"


def test_what_a_downgrade_keeps_is_the_substitutes_matter():
    bundle = small_bundle(
        rules=DOWNGRADES.modules["sluicegate/decision.rego"].replace(
            'decision := {"effect": "allow", "review": true} if {',
            'decision := {"effect": "allow", "review": true} if {\n\t'
            "input.subject.properties.tiers.cyber > 0",
        )
    )
    record, facts = recorded(small_facts(cyber=0), bundle, capture="sealed", review=True)
    record["model"]["authorised"] = "opus"
    found = explain(record, facts, bundle)
    assert found.differences == ()
    assert found.reasons[0].source.text.startswith('decision := {\n\t"effect": "downgrade"')
    record["model"]["authorised"] = "mythos-5"
    assert explain(record, facts, bundle).differences == (
        "substitute: recorded mythos-5, now opus",
    )


def test_rules_that_give_nothing_are_a_difference_and_no_error():
    bundle = rules("decision := {} if input.action")  # conflicts with the others
    record, facts = recorded(small_facts(cyber=1))
    record["decision"]["revision"] = bundle.id
    found = explain(record, facts, bundle)
    assert (found.same, found.decision) == (False, None)
    assert found.differences[0].startswith("the rules give no decision")


def test_what_cannot_be_explained_is_refused():
    record, facts = recorded(small_facts())
    with pytest.raises(NotExplained, match="holds no decision"):
        explain({"type": "access.denied"}, facts, BUNDLE)
    with pytest.raises(NotExplained, match="was decided by"):
        explain(record, facts, rules("other := 1"))
    for bad in (b"", b"\xff", b"{}", facts[:-1]):
        with pytest.raises(NotExplained, match="another shape"):
            explain(record, bad, BUNDLE)


# The text of rules


def test_the_text_of_every_sample_rule_is_whole_and_its_own():
    """It holds the id at its line, parses by itself, and is one rule with what stands above it."""
    places = revision_of(POLICIES).rules
    assert len(places) > 20
    for rule, place in places.items():
        found = rule_text(POLICIES, place.file, place.line)
        lines = found.text.splitlines()
        assert re.search(rf'"rule"\s*:\s*"{re.escape(rule)}"', lines[found.line - found.first])
        imports = [
            line for line in POLICIES.modules[place.file].splitlines() if line.startswith("import ")
        ]
        alone = "\n".join(["package sluicegate", *imports, found.text])
        assert len(syntax_tree("alone.rego", alone)["rules"]) >= 1
        whole = POLICIES.modules[place.file].splitlines()
        assert whole[found.first - 1 : found.first - 1 + len(lines)] == lines


def test_metadata_of_a_rule_is_its_title():
    text = (
        "package sluicegate\n\n# METADATA\n# title: Nobody, yet\n# description: |\n#   more\n"
        'x := {"rule": "a.b"} if {\n\n\ty == "}"\n}\n\nz := 1\n'
    )
    found = rule_text(
        small_bundle(rules=RULES + text.partition("\n")[2]),
        *(
            "sluicegate/decision.rego",
            RULES.count("\n") + 6,
        ),
    )
    assert found.title == "Nobody, yet"
    assert found.text.startswith("# METADATA")
    assert found.text.endswith('\ty == "}"\n}')
