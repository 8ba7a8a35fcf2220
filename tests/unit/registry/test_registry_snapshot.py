import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.core.entities import Credential, Issuer, Member, Organisation
from gateway.registry.snapshot import (
    EpochGap,
    Snapshot,
    decode_delta,
    delta_of,
    encode_delta,
)

IDS = st.sampled_from(["a", "b", "c"])
STATUS = st.sampled_from(["active", "suspended", "revoked"])
ENTITIES = st.one_of(
    st.builds(Organisation, id=IDS, name=st.just("O"),
              tiers=st.dictionaries(st.just("cyber"), st.integers(0, 9))),
    st.builds(Member, id=IDS, organisation=IDS, name=st.just("M"), status=STATUS,
              external_id=st.sampled_from([None, "x", "y", "z"])),
    st.builds(Credential, id=IDS, member=IDS, status=STATUS, prefix=st.just("sk-sg-"),
              sha256=st.sampled_from(["1" * 64, "2" * 64, "3" * 64])),
    st.builds(Issuer, id=IDS, organisation=IDS, status=STATUS, audience=st.just("aud"),
              issuer=st.sampled_from(["https://1.example", "https://2.example"]),
              jwks_uri=st.just("https://1.example/j"), algorithms=st.just(("ES256",))),
)  # fmt: skip
STEPS = st.one_of(
    ENTITIES, st.tuples(st.sampled_from(["organisation", "member", "credential", "issuer"]), IDS)
)


def conflicts(snapshot, entity):
    """What ``changes`` refuses: one hash, subject or issuer under two ids."""
    if isinstance(entity, Credential):
        held = snapshot.credential(entity.sha256)
    elif isinstance(entity, Member) and entity.external_id is not None:
        held = snapshot.member_by_external_id(entity.organisation, entity.external_id)
    elif isinstance(entity, Issuer):
        held = snapshot.issuer(entity.issuer)
    else:
        held = None
    return held is not None and held.id != entity.id


def indexes(snapshot):
    return (snapshot._by_hash, snapshot._by_external_id, snapshot._by_iss)


@settings(max_examples=300)
@given(st.lists(STEPS, max_size=30))
def test_deltas_one_by_one_and_a_full_snapshot_come_to_the_same(steps):
    control, worker = Snapshot(), Snapshot()
    for each in (control, worker):
        each.apply(delta_of(None, 0))
    for step in steps:
        since = control.epoch
        if isinstance(step, tuple):
            delta = delta_of(since, since + 1, gone=(step,))
        elif conflicts(control, step):
            continue
        else:
            keys = {step.id: step.id.encode() * 32} if isinstance(step, Member) else {}
            delta = delta_of(since, since + 1, put=(step,), subject_keys=keys)
        control.apply(delta)
        worker.apply(decode_delta(encode_delta(delta)))
    late = Snapshot()
    late.apply(decode_delta(encode_delta(control.full())))
    assert control.full() == worker.full() == late.full()
    assert indexes(control) == indexes(worker) == indexes(late)
    for member in control.entities("member"):
        assert (late.subject_key(member.id) is not None) == (member.id in {"a", "b", "c"})


def test_a_missing_delta_is_noticed_and_nothing_is_changed():
    snapshot = Snapshot()
    snapshot.apply(delta_of(None, 5, put=(Organisation(id="a", name="A"),)))
    before = snapshot.full()
    for since, epoch in ((6, 7), (4, 5), (-1, 0)):
        with pytest.raises(EpochGap):
            snapshot.apply(delta_of(since, epoch, gone=(("organisation", "a"),)))
    assert snapshot.full() == before
    with pytest.raises(EpochGap):
        Snapshot().apply(delta_of(5, 6))


def test_k20_subject_keys_are_in_no_repr():
    assert "secret" not in repr(delta_of(None, 1, subject_keys={"a": b"secret" * 6}))


def test_a_full_delta_replaces_all():
    snapshot = Snapshot()
    snapshot.apply(delta_of(None, 5, put=(Organisation(id="a", name="A"),)))
    snapshot.apply(delta_of(None, 2, put=(Organisation(id="b", name="B"),)))
    assert (snapshot.epoch, snapshot.organisation("a")) == (2, None)
    assert snapshot.organisation("b")


@given(st.binary(max_size=60))
def test_bytes_that_are_no_delta_are_refused(raw):
    with pytest.raises(ValueError):  # noqa: PT011 - msgspec's, as the docstring says
        decode_delta(raw)
