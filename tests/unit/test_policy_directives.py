"""Directives: three answers, only expressions, and they only take away."""

import pytest

from gateway.core.decision import Decision, DecisionReason, Effect, LimitKey, LimitSpec
from gateway.core.protocols import EngineUnavailable
from gateway.policy.directives import Answer, Directive, Directives, withdraw
from gateway.policy.findings import BundleError
from gateway.policy.judge import encode_facts
from tests.policy.small_bundle import NOW, small_facts

FACTS = encode_facts(small_facts())


def answer(expression: str, facts: bytes = FACTS) -> Answer:
    [(_, result)] = Directives([Directive(id="d", expression=expression)]).answers(facts)
    return result


SPONSORED = (
    '{{input.resource.id == "mythos-5", input.subject.properties.sponsored == {}}} == {{true}}'
)


@pytest.mark.parametrize(
    ("expression", "expected"),
    [
        ('input.resource.id == "mythos-5"', Answer.REACHED),
        ('input.resource.id == "opus"', Answer.NOT_REACHED),
        ('"GB" in input.subject.properties.nationalities', Answer.REACHED),
        ("input.subject.properties.tiers.cyber < 4", Answer.REACHED),
        ("input.subject.properties.tiers.bio < 4", Answer.UNKNOWN),
        ('input.subject.properties.engagement.id == "e"', Answer.UNKNOWN),
        ("input.subject.properties.tiers.cyber", Answer.UNKNOWN),
        ("net.cidr_contains(input.subject.id, input.subject.id)", Answer.UNKNOWN),
        (
            "count([v | some v in input.subject.properties.vetting; v.level > 1]) > 0",
            Answer.NOT_REACHED,
        ),
        ('input.context.time >= "2026-01-01T00:00:00Z"', Answer.REACHED),
        (SPONSORED.format("false"), Answer.REACHED),
        (SPONSORED.format("true"), Answer.NOT_REACHED),
        ("{input.subject.properties.tiers.bio == 1, true} == {true}", Answer.UNKNOWN),
        ("true", Answer.REACHED),
    ],
)
def test_a_directive_answers_in_three_ways(expression: str, expected: Answer) -> None:
    assert answer(expression) is expected


def test_what_cannot_be_told_is_cut_unless_the_approvers_chose_otherwise() -> None:
    unknown = "input.subject.properties.tiers.bio < 4"
    directives = Directives(
        [
            Directive(id="cut", expression=unknown),
            Directive(id="keep", expression=unknown, unless_unknown="keep"),
            Directive(id="reached", expression="true", unless_unknown="keep"),
            Directive(id="missed", expression="false"),
        ]
    )
    assert [directive.id for directive in directives.reached(FACTS)] == ["cut", "reached"]


def test_each_answer_is_for_its_own_facts() -> None:
    directives = Directives([Directive(id="d", expression='input.resource.id == "mythos-5"')])
    assert directives.reached(FACTS)
    assert not directives.reached(encode_facts(small_facts(model="opus")))
    with pytest.raises(EngineUnavailable):
        directives.reached(b"{")
    assert not directives.reached(encode_facts(small_facts(model="opus")))


@pytest.mark.parametrize(
    "expression",
    [
        "",
        " ",
        "true if false",
        "true\nd9 := true",
        "true # and no more",
        "true } else := { false",
        "x := 1",
        "every x in [1] { x == 1 }",
        "some x in [1]",
        "not true",
        "true; false",
        "input.resource.id ==",
        'data.models["x"]',
        "data",
        'crypto.md5("a") == "b"',
        'http.send({"url": "http://example.com", "method": "get"})',
        "time.now_ns() > 1",
        'input.identty == "x"',
        "input",
        'startswith(input.context.time, "2027")',
        "input.subject.properties.tiers.cyber > 1.5",
        "count([1 | some i in numbers.range(1, 200000)]) > 1",
        "true with input as {}",
    ],
)
def test_only_one_fast_portable_expression_over_the_input_is_accepted(expression: str) -> None:
    with pytest.raises(BundleError):
        Directives([Directive(id="d", expression=expression)])


def test_an_id_stands_once_and_every_finding_is_told() -> None:
    with pytest.raises(BundleError) as refusal:
        Directives(
            [
                Directive(id="a", expression="true"),
                Directive(id="a", expression="false"),
                Directive(id="b", expression="input.x"),
                Directive(id="c", expression="("),
            ]
        )
    assert len(refusal.value.findings) == 3


REASON = DecisionReason(code="c", rule="r", message="m", remedy="")
LIMIT = LimitSpec(name="requests", key=LimitKey.SUBJECT, rate=1, period_s=1, burst=1)


def decided(effect: Effect) -> Decision:
    return Decision(
        effect=effect,
        reasons=() if effect is Effect.ALLOW else (REASON,),
        model="opus" if effect is Effect.DOWNGRADE else None,
        limits=(LIMIT,),
        review=True,
        valid_until=NOW,
    )


@pytest.mark.parametrize("effect", Effect)
@pytest.mark.parametrize("taken", ["deny", "step_up", "require_approval"])
def test_the_stricter_effect_wins_and_policys_own_answer_on_a_tie(
    effect: Effect, taken: str
) -> None:
    policy = decided(effect)
    result = withdraw(policy, [Directive(id="d", expression="true", effect=taken)])
    assert result.effect.severity == max(effect.severity, Effect(taken).severity)
    if effect.severity >= Effect(taken).severity:
        assert result is policy
    else:
        assert [reason.rule for reason in result.reasons] == ["directive.d"]
        assert (result.model, result.limits) == (None, ())
        assert (result.review, result.valid_until) == (True, NOW)


def test_several_directives_take_away_the_most() -> None:
    directives = [
        Directive(id="a", expression="true", effect="step_up"),
        Directive(id="b", expression="true", effect="deny"),
        Directive(id="c", expression="true", effect="deny"),
    ]
    assert withdraw(decided(Effect.ALLOW), directives).reasons[0].rule == "directive.b"
    assert withdraw(decided(Effect.ALLOW), []) == decided(Effect.ALLOW)
