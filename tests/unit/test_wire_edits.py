"""The closed list of edits (invariant 1, K43)."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.core.facts import Wire
from gateway.wire.edits import EditFailed, Edits, apply
from gateway.wire.strict_json import parse

ODD = (
    b'{ "system" : [ {"type":"text", "text":"caf\\u00e9 \xc3\xa9","cache_control":{"type":'
    b'"ephemeral"}} ] , "temperature": 1.00, "big": 1e2, "\\u006dodel" :"alias", "b": false ,'
    b'"unknown_field":{"deep":[1 , 2,{"k":null}]}, "thinking":{"type":"adaptive"}\t}'
)


def edit(body, **wanted):
    return apply(body, parse(body), Edits(**wanted))


@pytest.mark.parametrize(
    "wanted",
    [{}, {"model": "alias"}, {"model": None, "safety_identifier": None, "include_usage": False}],
)
def test_k43_without_an_edit_the_same_object_is_forwarded(wanted):
    body, made = edit(ODD, **wanted)
    assert body is ODD
    assert made == ()


def test_k43_an_edit_keeps_every_other_value_byte_for_byte():
    body, made = edit(ODD, model="served-model")
    assert made == ("model",)
    assert body == (
        b'{"system":[ {"type":"text", "text":"caf\\u00e9 \xc3\xa9","cache_control":{"type":'
        b'"ephemeral"}} ],"temperature":1.00,"big":1e2,"model":"served-model","b":false,'
        b'"unknown_field":{"deep":[1 , 2,{"k":null}]},"thinking":{"type":"adaptive"}}'
    )


def test_all_edits_together():
    body, made = edit(
        b'{"model":"a","safety_identifier":"mine","stream_options":{"x": 1.0},"z":1}',
        model="b",
        safety_identifier="gateway",
        include_usage=True,
    )
    assert made == ("model", "safety_identifier", "stream_options.include_usage")
    assert body == (
        b'{"model":"b","safety_identifier":"gateway",'
        b'"stream_options":{"x":1.0,"include_usage":true},"z":1}'
    )


@pytest.mark.parametrize("options", [b"", b',"stream_options":null', b',"stream_options":{}'])
def test_include_usage_where_there_was_nothing(options):
    body, made = edit(b'{"model":"a"' + options + b"}", include_usage=True)
    assert made == ("stream_options.include_usage",)
    assert body == b'{"model":"a","stream_options":{"include_usage":true}}'


def test_include_usage_that_the_client_asked_for_is_no_edit():
    original = b'{"model":"a","stream_options":{"include_usage":true}}'
    assert edit(original, include_usage=True) == (original, ())


def test_the_wires_know_their_edits():
    wanted = {"model": "b", "safety_identifier": "s", "include_usage": True}
    assert Edits.on(Wire.CHAT, stream=True, **wanted) == Edits("b", "s", include_usage=True)
    assert Edits.on(Wire.CHAT, stream=False, **wanted) == Edits("b", "s")
    assert Edits.on(Wire.RESPONSES, stream=True, **wanted) == Edits("b", "s")
    for wire in (Wire.MESSAGES, Wire.COUNT_TOKENS, Wire.EMBEDDINGS):
        assert Edits.on(wire, stream=True, **wanted) == Edits("b")


@pytest.mark.parametrize("judged", [b'{"model":"a","t":1}', b'{"model":"a"}', b'{"t":1.0}'])
def test_bytes_that_are_not_those_judged_are_not_forwarded(judged):
    """Negative control: the comparison sees a member more, and 1.0 where 1 was judged."""
    with pytest.raises(EditFailed):
        apply(b'{"model":"a","t":1.0}', parse(judged), Edits(model="b"))


_values = st.recursive(
    st.none() | st.booleans() | st.integers(-9, 9) | st.floats(-1, 1) | st.text('ab\u00e9"\\'),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text("ab"), inner, max_size=3),
    max_leaves=8,
)


@given(
    st.dictionaries(st.text("abc\u00e9"), _values, max_size=5),
    st.none() | st.text("xyz", min_size=1),
    st.none() | st.text("xyz", min_size=1),
    st.booleans(),
    st.integers(0, 3),
)
def test_an_edited_body_reads_as_the_original_but_for_the_edits(extra, model, ident, usage, indent):
    document = {"model": "m", **extra}
    body = json.dumps(document, indent=indent or None).encode()
    edited, made = apply(body, parse(body), Edits(model, ident, usage))
    expected = dict(document)
    if model:
        expected["model"] = model
    if ident:
        expected["safety_identifier"] = ident
    if usage:
        expected["stream_options"] = {"include_usage": True}
    assert parse(edited) == expected
    assert (edited is body) == (not made)
