"""YAML without surprises: what is taken, and what is refused with its line."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.policy.findings import BundleError
from gateway.policy.strict_yaml import load

plain = st.text(
    # Above U+FFFF, JSON escapes a pair of surrogates, which YAML does not join: refused below.
    alphabet=st.characters(max_codepoint=0xFFFF, exclude_categories=("Cs", "Cc")),
    max_size=12,
)
values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53) + 1, 2**53 - 1) | plain,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(plain, inner, max_size=3),
    max_leaves=8,
)


@given(values)
def test_reads_json_as_itself(value: object) -> None:
    assert load(json.dumps(value, ensure_ascii=True), "f").value == value


@pytest.mark.parametrize(
    ("text", "line", "words"),
    [
        ("a: 1\na: 2\n", 2, "duplicate key 'a'"),
        ("a: {b: 1, b: 1}\n", 1, "duplicate key 'b'"),
        ("a: &x 1\nb: *x\n", 1, "anchors"),
        ("b: *x\n", 1, "anchors"),
        ("a:\n  <<: {b: 1}\n", 2, "for a merge"),
        ("a: !!str 1\n", 1, "tags"),
        ("a: !x 1\n", 1, "tags"),
        ("a: 2026-01-31T00:00:00Z\n", 1, "quoted string"),
        ("\na: 2026-01-31\n", 2, "quoted string"),
        ("country: NO\n", 1, "'NO' for a bool"),
        ("a: yes\n", 1, "'yes' for a bool"),
        ("a: True\n", 1, "'True' for a bool"),
        ("a: 010\n", 1, "for a int"),
        ("a: 0x10\n", 1, "for a int"),
        ("a: 1_000\n", 1, "for a int"),
        ("a: 12:30\n", 1, "for a int"),
        ("a: +1\n", 1, "for a int"),
        ("a: 9007199254740992\n", 1, "2^53"),
        ("a: 1.5\n", 1, "float"),
        ("a: .inf\n", 1, "float"),
        ("a:\n", 1, "empty value"),
        ("a: ~\n", 1, "empty value"),
        ("1: a\n", 1, "key is a string"),
        ("on: a\n", 1, "'on' for a bool"),
        ("[a]: b\n", 1, "key is a string"),
        ("a: 1\n---\nb: 2\n", 2, "another document"),
        ("a: [1\n", 2, ""),
        ("a: \x07\n", 1, "special characters"),
        ("", 1, "empty"),
        ('a: "\\ud800\\udc00"\n', 1, "surrogate"),
        ('"\\ud800": 1\n', 1, "surrogate"),
        ("a: " + "[" * 40 + "]" * 40 + "\n", 1, "nested deeper"),
    ],
)
def test_refuses_what_readers_disagree_on(text: str, line: int, words: str) -> None:
    with pytest.raises(BundleError) as refusal:
        load(text, "data/x.yaml")
    assert refusal.value.findings[0].startswith(f"data/x.yaml:{line}: ")
    assert words in refusal.value.findings[0]


def test_tells_every_finding_at_once() -> None:
    with pytest.raises(BundleError) as refusal:
        load("a: yes\nb: 1.5\nb: 2\n", "f")
    assert [finding[:3] for finding in refusal.value.findings] == ["f:1", "f:2", "f:3"]


def test_lines_are_those_of_the_keys() -> None:
    document = load('a:\n  - b: "x"\n  -\n    c: 1\n', "f")
    assert document.value == {"a": [{"b": "x"}, {"c": 1}]}
    assert document.lines[("a", 0, "b")] == 2
    assert document.lines[("a", 1, "c")] == 4
