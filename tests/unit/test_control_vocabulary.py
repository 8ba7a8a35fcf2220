"""Words of people data that the shipped policy does not know, and those that it does."""

from pathlib import Path

import pytest

from gateway.control.vocabulary import NAMED_AT_MOST, has_words, unknown_words, vocabulary_of
from gateway.policy.bundle import BundleError, read_directory
from gateway.registry.changes import Add, Move, Set
from tests.policy.small_bundle import small_bundle

POLICIES = Path(__file__).resolve().parents[2] / "policies"


@pytest.fixture(scope="module")
def shipped():
    return vocabulary_of(read_directory(POLICIES))


@pytest.mark.parametrize(
    ("kind", "fields", "warning"),
    [
        ("member", {"tiers": {"cyberr": 2}}, "no tier domain 'cyberr'; it knows bio, cyber"),
        ("organisation", {"tiers": {"cyber": 7}}, "cyber 7 is above the highest level"),
        ("member", {"purposes": ["redteam"]}, "no purpose 'redteam'; it knows authorised-offence,"),
        ("organisation", {"licences": ["glaswing"]}, "no licence 'glaswing'"),
        ("organisation", {"agreements": ["aup"]}, "no agreement 'aup'; it knows acceptable-use"),
        ("member", {"vetting": [{"kind": "idendity"}]}, "no vetting kind 'idendity'"),
        ("credential", {"scopes": ["model:mythos-0"]}, "no model 'mythos-0'"),
        ("credential", {"scopes": ["class:cybr-2"]}, "no tier domain 'cybr'"),
        ("credential", {"scopes": ["class:cyber-9"]}, "cyber 9 is above the highest level"),
    ],
)
def test_a_word_that_is_spelt_wrong_is_named_with_those_that_are_known(
    shipped, kind, fields, warning
):
    for change in (Add(kind, fields), Set(kind, "x", fields)):
        assert has_words(change)
        (said,) = unknown_words(shipped, change)
        assert warning in said


def test_control_words_that_are_known_are_not_remarked_on(shipped):
    for kind, fields in (
        ("organisation", {"licences": ["glasswing", "export:listed", "export:mythos-5"]}),
        ("organisation", {"agreements": ["acceptable-use-2026"], "tiers": {"cyber": 4, "bio": 2}}),
        ("member", {"purposes": ["defence"], "vetting": [{"kind": "biosafety"}]}),
        ("member", {"tiers": {"cyberr": None}}),
        ("credential", {"scopes": ["model:mythos-5", "class:cyber-4", "wire:chat", "downgrade"]}),
    ):
        assert unknown_words(shipped, Set(kind, "x", fields)) == ()


def test_a_change_without_words_has_nothing_to_compare(shipped):
    for change in (Move("member", "x", "suspend"), Set("member", "x", {"name": "cyberr"})):
        assert not has_words(change)
        assert unknown_words(shipped, change) == ()


def test_of_many_known_words_some_are_named():
    entry = "m{0}: {{id: m{0}, display_name: M, endpoint: e, wires: [chat], stage: s, "
    entry += 'created_at: "2026-01-01T00:00:00Z"}}\n'
    many = small_bundle(models="".join(entry.format(n) for n in range(NAMED_AT_MOST + 5)))
    change = Add("credential", {"scopes": ["model:n"]})
    (said,) = unknown_words(vocabulary_of(many), change)
    assert said.endswith(" and 5 more")
    assert said.count(",") == NAMED_AT_MOST - 1


def test_without_levels_in_the_data_no_level_is_too_high():
    vocabulary = vocabulary_of(small_bundle())
    assert unknown_words(vocabulary, Add("member", {"tiers": {"cyber": 9}})) == ()


def test_data_of_another_shape_is_refused():
    with pytest.raises(BundleError, match=r"data/models\.yaml"):
        vocabulary_of(small_bundle(models="a: 1\n"))
