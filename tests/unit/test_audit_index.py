"""The index gives what a reading of the whole log gives, proves it, and can be thrown away."""

import os
import random
import shutil
import sqlite3
from collections import Counter

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gateway.audit import records as r
from gateway.audit.index import HOUR_NS, Index, IndexDamaged, Log
from gateway.audit.note import SigningKey, parse_checkpoint
from gateway.audit.proof import check_proof
from gateway.audit.read import LogReader
from gateway.audit.search import Query, Search
from gateway.audit.segments import LogCorrupt
from gateway.audit.terms import DIMENSIONS, effect_of, terms_of, text_terms, words_of
from gateway.audit.writer import AuditLog
from tests.support import traffic

SHARDS = ("data-0", "data-1")
KEYS = {
    shard: SigningKey(f"example.org/gate/{shard}", bytes([number]) * 32)
    for number, shard in enumerate(SHARDS)
}
STEP_NS = 40_000_000_000
"""Between two looks at the clock: some hundred calls pass an hour."""


class Everything(list):
    def __repr__(self):
        return f"{len(self)} records"


def logs_in(directory):
    return {shard: Log(directory / shard, [KEYS[shard].verifier]) for shard in SHARDS}


def written(directory, count=150, **options):
    for number, shard in enumerate(SHARDS):
        wall = traffic.Wall(STEP_NS)  # the same clock for both logs: ids collide
        calls = traffic.calls(count, seed=number, first=1000 * number)
        traffic.write(directory / shard, KEYS[shard], calls, wall=wall, **options)
    return logs_in(directory)


@pytest.fixture(scope="module")
def logs(tmp_path_factory):
    """Two logs of several segments each, written by clocks that show the same times."""
    return written(tmp_path_factory.mktemp("audit"), segment_bytes=100_000)


@pytest.fixture(scope="module")
def index(logs, tmp_path_factory):
    index = Index(tmp_path_factory.mktemp("index") / "index.sqlite", logs)
    index.catch_up()
    yield index
    index.close()


@pytest.fixture(scope="module")
def everything(logs):
    """Every record with its terms, words, and the intent that an outcome ends: read, not found."""
    found = Everything()
    for shard, log in logs.items():
        entries = [(entry.seq, entry.json()) for entry in LogReader(log.directory).entries()]
        intents = {seq: record for seq, record in entries if record["type"] == "access.intent"}
        for seq, record in entries:
            intent = intents.get(record.get("parent"))
            found.append(((shard, seq), record, set(terms_of(record, intent))))
    return found


def scanned(everything, query):
    """The answer by reading everything."""
    return {
        position
        for position, record, terms in everything
        if query.since <= int(record["hlc"]) < query.until
        and (not query.name or query.name in (record.get("request_id"), record.get("decision_id")))
        and all(
            any((dimension, value) in terms for value in values)
            for dimension, values in query.by_dimension().items()
        )
        and all(
            any(each == word or (begins and each.startswith(word)) for each in words_of(record))
            for word, begins in text_terms(query.text)
        )
    }


# Finding


@given(seed=st.integers(0, 1 << 32))
@settings(
    max_examples=120, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
def test_every_query_finds_what_a_reading_of_the_whole_log_finds(index, logs, everything, seed):
    dice = random.Random(seed)
    _, record, terms = dice.choice(everything)
    others = dice.choice(everything)[2]
    wanted = dice.sample(sorted(terms), dice.randrange(3))
    wanted += dice.sample(sorted(others), dice.randrange(2))
    text = " ".join(dice.sample(sorted(words_of(record)), dice.randrange(3)))
    if text and dice.random() < 0.5:
        text = text[:-1].rstrip() + "*"
        assert text_terms(text) == [] or text_terms(text)[-1][1]
    hlc = int(record["hlc"])
    query = Query(
        terms=tuple(wanted),
        text=text if text_terms(text) else "",
        name=dice.choice(["", "", record.get("request_id", "req_none")]),
        since=dice.choice([0, hlc, hlc - HOUR_NS]),
        until=dice.choice([(1 << 63) - 1, hlc + 10, hlc]),
    )
    expected = scanned(everything, query)
    search, found, before = Search(index, logs), [], (1 << 63) - 1
    while page := search.hits(query, before=before, limit=7):
        found += page
        before = page[-1].id
    assert len(found) == len(expected)
    assert {(hit.shard, hit.seq) for hit in found} == expected
    assert [hit.id for hit in found] == sorted((hit.id for hit in found), reverse=True)


def test_ids_are_the_records_clocks_and_those_of_the_same_nanosecond_are_both_kept(
    index, everything
):
    ids = [row[0] for row in index.database.execute("SELECT id FROM records ORDER BY id")]
    clocks = sorted(int(record["hlc"]) for _, record, _ in everything)
    assert len(set(clocks)) < len(clocks)  # they do collide
    assert len(ids) == len(set(ids)) == len(clocks)
    assert all(0 <= record_id - clock < 10 for record_id, clock in zip(ids, clocks, strict=True))


def test_every_hit_brings_a_receipt_that_anyone_can_check(index, logs):
    for hit in Search(index, logs).hits(Query(), limit=100):
        key = KEYS[hit.shard].verifier
        assert check_proof(hit.proof(), hit.raw, [key])[0] == hit.seq


def test_unknown_dimensions_and_empty_texts_are_errors(index, logs):
    search = Search(index, logs)
    with pytest.raises(ValueError, match="no filter 'colour'.*subject"):
        search.hits(Query(terms=(("colour", "red"),)))
    with pytest.raises(ValueError, match="no word"):
        search.hits(Query(text='"'))
    with pytest.raises(ValueError, match="'tier' is not counted"):
        search.counts("tier", Query())


@pytest.mark.parametrize(
    "text",
    ['") OR 1', "NEAR(a b)", "a AND b", "-x", "^y", "text:a", "'*", "*a", "a\x00b é", "§* .:. --"],
)
def test_text_is_never_an_operator(index, logs, everything, text):
    query = Query(text=text)
    if not text_terms(text):
        return
    assert {(hit.shard, hit.seq) for hit in Search(index, logs).hits(query, limit=1000)} == scanned(
        everything, query
    )


def test_what_is_typed_is_read_as_filters_ids_and_words():
    query = Query.parse(
        [
            "org=acme",
            "tier=cyber=2",
            "effect=deny",
            "effect=step_up",
            "id=req_1",
            "hello",
            "text=a=b",
        ],
        since=5,
        until=None,
    )
    assert query == Query(
        terms=(
            ("organisation", "acme"),
            ("tier", "cyber=2"),
            ("effect", "deny"),
            ("effect", "step_up"),
        ),
        name="req_1",
        text="hello a=b",
        since=5,
    )
    for typed, said in (
        (["subjct=red"], "no filter 'subjct'"),
        (["id=a", "id=b"], "one id at a time"),
        (["'"], "no word"),
    ):
        with pytest.raises(ValueError, match=said):
            Query.parse(typed, since=None, until=None)


# Counting


@given(seed=st.integers(0, 1 << 32))
@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
def test_counts_are_those_of_a_reading_of_the_whole_log(index, logs, everything, seed):
    dice = random.Random(seed)
    dimension = dice.choice(["model", "reason", "subject", "rule", "wire", "status"])
    hlc = int(dice.choice(everything)[1]["hlc"]) - 1_000
    effect = dice.choice([(), (("effect", "deny"),), (("effect", "none"),)])
    filters = dice.choice([(), (("organisation", "org-1"),)])
    query = Query(
        terms=(*effect, *filters),
        since=dice.choice([0, hlc, hlc - HOUR_NS // 3, hlc // HOUR_NS * HOUR_NS]),
        until=dice.choice([(1 << 63) - 1, hlc, hlc + HOUR_NS * 5 // 2]),
    )
    positions = scanned(everything, query)
    expected: dict[str, Counter] = {}
    for position, record, terms in everything:
        if position in positions and (effect_of(record) or dimension == "status"):
            for named, value in terms:
                if named == dimension:
                    expected.setdefault(value, Counter())[effect_of(record) or "-"] += 1
    found = Search(index, logs).counts(dimension, query, top=10_000)
    assert {count.value: count.effects for count in found} == expected
    assert [count.calls for count in found] == sorted((c.calls for c in found), reverse=True)
    assert all(count.calls == sum(count.effects.values()) for count in found)


# Growing, and being made anew


def answers(index, logs):
    search = Search(index, logs)
    hits = [(hit.shard, hit.seq, hit.id) for hit in search.hits(Query(), limit=10_000)]
    return hits, [search.counts(dimension, Query()) for dimension in ("model", "subject", "status")]


def test_an_index_that_grew_with_the_logs_answers_as_one_made_at_once(tmp_path):
    dice, wall = random.Random(1), traffic.Wall(STEP_NS)
    log = AuditLog.open(
        tmp_path / "data-0",
        KEYS["data-0"].name,
        KEYS["data-0"],
        node=r.Gateway(node="n"),
        segment_bytes=20_000,
        wall=wall,
    )
    logs = {"data-0": Log(tmp_path / "data-0", [KEYS["data-0"].verifier])}
    growing = Index(tmp_path / "growing.sqlite", logs)
    with log:
        for call in traffic.calls(60):
            for part in call:
                log.append_sync(part)
                if dice.random() < 0.5:  # between an intent and its outcome as well
                    growing.catch_up()
    growing.catch_up()
    assert growing.catch_up() == 0
    anew = Index(tmp_path / "anew.sqlite", logs)
    anew.catch_up()
    assert answers(growing, logs) == answers(anew, logs)
    outcomes = Search(growing, logs).hits(Query(terms=(("type", "access.outcome"),)), limit=1000)
    assert outcomes
    model = outcomes[0].json()["served_model"].removesuffix("-2026")
    found = Query(terms=(("type", "access.outcome"), ("model", model)))
    assert outcomes[0].seq in {hit.seq for hit in Search(growing, logs).hits(found)}
    growing.close()
    anew.close()


def test_progress_goes_to_the_end(logs, tmp_path):
    told = []
    index = Index(tmp_path / "index.sqlite", logs)
    index.catch_up(lambda done, total: told.append((done, total)))
    index.close()
    assert told == sorted(told)
    assert told[-1][0] == told[-1][1] > 0


# Damage and deceit


def changed(path, statement, *values):
    database = sqlite3.connect(path)
    with database:
        assert database.execute(statement, values).rowcount
    database.close()


@pytest.fixture
def own(logs, tmp_path):
    """An index of its own, up to date and closed."""
    path = tmp_path / "index.sqlite"
    index = Index(path, logs)
    index.catch_up()
    index.close()
    return path


def test_no_index_at_all_or_one_of_another_version_is_told_apart(logs, own):
    own.with_name("other").write_bytes(b"this is no database, and longer than a header" * 100)
    own.with_name("other").chmod(0o600)
    with pytest.raises(IndexDamaged, match="cannot be read"):
        Index(own.with_name("other"), logs)
    changed(own, "UPDATE logs SET size = size WHERE 1")
    database = sqlite3.connect(own)
    database.execute("PRAGMA user_version = 77")
    database.close()
    with pytest.raises(IndexDamaged, match="version 77"):
        Index(own, logs)


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE records SET offset = offset + 1",
        "UPDATE records SET seq = seq + 1",
        "UPDATE records SET segment = segment + 1",
        "UPDATE tiles SET hashes = zeroblob(length(hashes)) WHERE level = 0",
        "DELETE FROM tiles",
        "UPDATE logs SET checkpoint = x'00'",
        "UPDATE records SET id = id + 5000000 WHERE id = (SELECT max(id) FROM records)",
        "UPDATE records SET offset = 'x'",
        "UPDATE records SET log = 99",
        "UPDATE tiles SET hashes = 'x'",
    ],
)
def test_an_index_that_says_what_the_logs_do_not_is_caught(logs, own, statement):
    changed(own, statement)
    index = Index(own, logs)
    with pytest.raises(IndexDamaged):
        Search(index, logs).hits(Query(), limit=1000)
    index.close()


@pytest.mark.parametrize("what", ["link", "pipe", "directory", "open", "another's tables"])
def test_what_is_no_index_of_ours_is_not_used(logs, own, tmp_path, what):
    elsewhere = tmp_path / "elsewhere"
    if what == "open":
        own.chmod(0o644)
    elif what == "another's tables":
        changed_shape(own, "CREATE VIEW more AS SELECT 1")
    else:
        own.rename(elsewhere)
        if what == "link":
            own.symlink_to(elsewhere)
        elif what == "pipe":
            os.mkfifo(own, 0o600)
        else:
            own.mkdir(0o700)
    with pytest.raises(IndexDamaged):
        Index(own, logs)


def changed_shape(path, statement):
    database = sqlite3.connect(path)
    with database:
        database.execute(statement)
    database.close()


def test_a_record_given_twice_is_caught(logs, own):
    database = sqlite3.connect(own)
    with database:
        database.execute(
            "INSERT INTO records SELECT max(id) + 5, log, seq, segment, offset, effect FROM records"
        )
    database.close()
    index = Index(own, logs)
    with pytest.raises(IndexDamaged, match="twice"):
        Search(index, logs).hits(Query(), limit=5)
    index.close()


def test_an_intent_that_lies_elsewhere_is_the_indexs_fault(logs, own):
    outcomes = Query(terms=(("type", "access.outcome"),))
    changed(
        own,
        "UPDATE records SET offset = offset + 3 WHERE id IN (SELECT record FROM postings"
        " JOIN terms ON terms.id = term WHERE value = 'access.intent')",
    )
    index = Index(own, logs)
    with pytest.raises(IndexDamaged):
        Search(index, logs).hits(outcomes)
    with pytest.raises(IndexDamaged):
        Search(index, logs).counts("model", Query(terms=(("organisation", "org-1"),)))
    index.close()


def kept_elsewhere(logs, notes):
    return {
        shard: Log(log.directory, log.keys, [parse_checkpoint(notes[shard], log.keys)])
        for shard, log in logs.items()
    }


def test_a_log_that_does_not_extend_a_kept_checkpoint_is_not_indexed(tmp_path):
    logs = written(tmp_path, count=6)
    notes = {shard: LogReader(log.directory).latest(log.keys).note for shard, log in logs.items()}
    held = kept_elsewhere(logs, notes)
    index = Index(tmp_path / "good.sqlite", held)
    index.catch_up()
    index.close()
    for shard in SHARDS:  # the same length, another log: only a kept root tells
        shutil.rmtree(tmp_path / shard)
    for number, shard in enumerate(SHARDS):
        calls = traffic.calls(6, seed=number, first=9000 + 1000 * number)
        traffic.write(tmp_path / shard, KEYS[shard], calls, wall=traffic.Wall(STEP_NS))
    assert [LogReader(log.directory).latest(log.keys).size for log in logs.values()] == [
        parse_checkpoint(notes[shard], log.keys).size for shard, log in logs.items()
    ]
    index = Index(tmp_path / "fork.sqlite", kept_elsewhere(logs, notes))
    with pytest.raises(LogCorrupt, match="not the log of the kept checkpoint"):
        index.catch_up()
    index.close()


def test_damage_behind_which_signed_records_lie_is_no_end(tmp_path):
    logs = written(tmp_path, count=30)
    (segment,) = (tmp_path / "data-0").glob("*.seg")
    data = bytearray(segment.read_bytes())
    data[len(data) // 2] ^= 1
    segment.write_bytes(data)
    index = Index(tmp_path / "index.sqlite", logs)
    with pytest.raises(LogCorrupt, match="damaged, or after the last checkpoint"):
        index.catch_up()
    index.close()


def test_a_record_passed_off_as_anothers_is_caught(logs, own):
    """The index points a member's term at a record that the log does hold, but of someone else."""
    wanted = (
        "SELECT term, record FROM postings JOIN terms ON id = term"
        " WHERE dimension = 'subject' AND value {} 'member-0' LIMIT 1"
    )
    database = sqlite3.connect(own)
    (mine, _), (_, theirs) = (
        database.execute(wanted.format(sign)).fetchone() for sign in ("=", "!=")
    )
    with database:
        database.execute("INSERT OR IGNORE INTO postings VALUES (?, ?)", (mine, theirs))
    database.close()
    index = Index(own, logs)
    with pytest.raises(IndexDamaged, match="what the record does not"):
        Search(index, logs).hits(Query(terms=(("subject", "member-0"),)), limit=1000)
    index.close()


def test_a_log_whose_tree_was_not_signed_by_its_key_is_not_indexed(tmp_path):
    logs = written(tmp_path, count=5)
    strangers = {
        shard: Log(log.directory, [KEYS["data-1"].verifier]) for shard, log in logs.items()
    }
    index = Index(tmp_path / "index.sqlite", strangers)
    with pytest.raises(LogCorrupt):
        index.catch_up()
    assert index.sizes().get("data-0", 0) == 0
    index.close()


def test_a_log_that_is_gone_or_shorter_than_it_was_is_told(tmp_path):
    logs = written(tmp_path, count=5)
    index = Index(tmp_path / "index.sqlite", logs)
    index.catch_up()
    (segment,) = (tmp_path / "data-1").glob("*.seg")
    whole = segment.read_bytes()
    segment.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(IndexDamaged, match="longer when last read"):
        index.catch_up()
    index.close()
    index = Index(tmp_path / "index.sqlite", {"data-0": logs["data-0"]})
    with pytest.raises(IndexDamaged, match="are gone: data-1"):
        index.catch_up()
    index.close()


def test_every_dimension_says_what_its_values_are(everything):
    assert all(DIMENSIONS.values())
    assert {dimension for _, _, terms in everything for dimension, _ in terms} <= DIMENSIONS.keys()
