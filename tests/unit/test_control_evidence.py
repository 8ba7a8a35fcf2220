"""The draw of evidence: reproducible, fair, and told on a page that holds no markup of others."""

from html.parser import HTMLParser

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.audit import records as r
from gateway.control.evidence import (
    SAMPLE,
    Control,
    ControlSet,
    Draw,
    Drawn,
    Place,
    control_sets,
    page,
    seed_of,
)

CONTROLS = ControlSet(
    "Test",
    {
        "A": Control("changes", ("type=registry.changed",), "who"),
        "B": Control("ends and denials", ("status=policy_cut", "effect=deny"), "that"),
        "C": Control("nothing", ("type=log.closed",), "none"),
    },
)
SEED = seed_of({"control": b"note", "data-0": b"other"})
CHANGE = {"type": "registry.changed", "kind": "member", "id": "red", "op": "member.add"}
DENIED = {"type": "access.denied", "decision": {"effect": "deny"}, "http": 403}


def drawn(places, seed=SEED, record=CHANGE):
    draw = Draw(CONTROLS, seed)
    for place in places:
        draw.take(*place, record, None)
    return draw.drawn()


@given(st.permutations([Place("control", seq) for seq in range(60)]))
def test_the_order_of_looking_changes_nothing(places):
    found = drawn(places)["A"]
    assert found == drawn(sorted(places))["A"]
    assert found.population == 60
    assert len(set(found.places)) == SAMPLE
    assert list(found.places) == sorted(found.places)


@given(st.integers(0, SAMPLE + 5))
def test_all_are_drawn_where_there_are_few(count):
    found = drawn([Place("data-0", seq) for seq in range(count)])
    assert found["A"].population == count
    assert len(found["A"].places) == min(count, SAMPLE)
    assert found["C"] == Drawn(0, ())


def test_each_place_is_drawn_about_as_often_as_any_other():
    places = [Place("control", seq) for seq in range(100)]
    counts = dict.fromkeys(places, 0)
    for number in range(400):
        for place in drawn(places, seed_of({"control": b"%d" % number}))["A"].places:
            counts[place] += 1
    assert sum(counts.values()) == 400 * SAMPLE
    assert min(counts.values()) > 60, "100 are expected of each, with a deviation of 9"
    assert max(counts.values()) < 140


def test_seed_control_and_log_each_change_the_draw():
    places = [Place("control", seq) for seq in range(100)]
    first = drawn(places)["A"].places
    assert drawn(places, seed_of({"control": b"note"}))["A"].places != first
    assert [seq for _, seq in drawn([Place("data-0", p.seq) for p in places])["A"].places] != [
        seq for _, seq in first
    ]
    same = ControlSet("Test", {"A": CONTROLS.controls["A"], "Z": CONTROLS.controls["A"]})
    draw = Draw(same, SEED)
    for place in places:
        draw.take(*place, CHANGE, None)
    assert draw.drawn()["A"].places != draw.drawn()["Z"].places


def test_any_filter_of_a_control_finds_and_others_do_not():
    draw = Draw(CONTROLS, SEED)
    draw.take("data-0", 1, DENIED, None)
    draw.take("data-0", 2, {"type": "access.outcome", "status": "policy_cut"}, None)
    draw.take("data-0", 3, {"type": "access.outcome", "status": "ok"}, None)
    found = draw.drawn()
    assert found["B"] == Drawn(2, (Place("data-0", 1), Place("data-0", 2)))
    assert found["A"].population == 0


def test_the_table_asks_for_records_that_there_are():
    sets = control_sets()
    assert set(sets) == {"nist-800-53", "soc2", "iso-27001"}
    types = {kind.__struct_config__.tag for kind in r.AnyRecord.__args__}
    types |= {each.partition(".")[0] for each in types}
    statuses = set(r.OutcomeStatus.__args__)
    effects = {"allow", "downgrade", "deny", "step_up", "require_approval"}
    known = {"type": types, "status": statuses, "effect": effects}
    for each in sets.values():
        for control in each.controls.values():
            for asked in control.asks:
                dimension, value = asked.split("=")
                assert value in known[dimension], asked


class Tags(HTMLParser):
    """Every tag of a page, and its text."""

    def __init__(self):
        super().__init__()
        self.tags, self.text = [], ""

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data):
        self.text += data


@pytest.mark.parametrize("evil", ['<script src="//x">', "\x1b[2J", "\u202etxt", "&amp;", '"><img>'])
def test_the_page_holds_no_markup_of_others(evil):
    place = Place("control", 3)
    found = {"A": Drawn(1, (place,)), "B": Drawn(0, ()), "C": Drawn(0, ())}
    told = {place: ["1", evil, evil, evil]}
    made = Tags()
    made.feed(page(CONTROLS, found, told, [("period", evil)]))
    names = {tag for tag, _ in made.tags}
    assert names == set(
        "html head meta title body h1 h2 p dl dt dd table thead tbody tr th td".split()
    )
    assert all(set(attributes) <= {"lang", "charset", "scope"} for _, attributes in made.tags)
    assert not {"\x1b", "\u202e"} & set(made.text)
    assert made.text.count("control#3") == 1
