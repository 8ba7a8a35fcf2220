"""The strict reading: what could be read in two ways is refused (K1)."""

import json

import msgspec
import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.wire.strict_json import MAX_DEPTH, MAX_VALUES, MalformedBody, parse

BAD = {
    "empty": b"",
    "byte order mark": b'\xef\xbb\xbf{"model":"m"}',
    "utf-16": '{"model":"m"}'.encode("utf-16"),
    "utf-16 without mark": '{"model":"m"}'.encode("utf-16-le"),
    "invalid utf-8": b'{"model":"\xff"}',
    "overlong utf-8": b'{"model":"\xc0\xaf"}',
    "raw surrogate": b'{"model":"\xed\xa0\x80"}',
    "escaped lone high surrogate": b'{"model":"\\ud800"}',
    "escaped lone low surrogate": b'{"model":"\\uDC00"}',
    "surrogates in the wrong order": b'{"model":"\\udc00\\ud800"}',
    "lone surrogate in a key": b'{"\\ud83d":1}',
    "duplicate key": b'{"model":"a","model":"b"}',
    "duplicate key, same value": b'{"model":"a","model":"a"}',
    "duplicate key, escaped": b'{"model":"a","\\u006dodel":"b"}',
    "duplicate key, nested": b'{"model":"a","x":[{"y":{"k":1,"k":2}}]}',
    "duplicate empty key": b'{"":1,"":2}',
    "NaN": b'{"t":NaN}',
    "Infinity": b'{"t":Infinity}',
    "-Infinity": b'{"t":-Infinity}',
    "float too large": b'{"t":1e999}',
    "float too large, negative": b'{"t":-1e400}',
    "float too large, by digits": b'{"t":' + b"9" * 400 + b".0}",
    "integer beyond 64 bits": b'{"n":9223372036854775808}',
    "integer beyond 64 bits, negative": b'{"n":-9223372036854775809}',
    "very long integer": b'{"n":' + b"9" * 5000 + b"}",
    "trailing data": b'{"model":"m"}{}',
    "trailing NUL": b'{"model":"m"}\x00',
    "trailing comma": b'{"model":"m",}',
    "comment": b'{"model":"m"/*x*/}',
    "single quotes": b"{'model':'m'}",
    "unquoted key": b'{model:"m"}',
    "control character": b'{"model":"a\nb"}',
    "leading zero": b'{"n":01}',
    "plus sign": b'{"n":+1}',
    "hexadecimal": b'{"n":0x1}',
    "bare fraction": b'{"n":.5}',
    "form feed as space": b'{\x0c"model":"m"}',
    "no-break space": '{\u00a0"model":"m"}'.encode(),
    "array at the top": b'[{"model":"m"}]',
    "string at the top": b'"model"',
    "null at the top": b"null",
    "too deep, arrays": b'{"a":' + b"[" * MAX_DEPTH + b"]" * MAX_DEPTH + b"}",
    "too deep, objects": b'{"a":' * (MAX_DEPTH + 1) + b"1" + b"}" * (MAX_DEPTH + 1),
    "far too deep": b'{"a":' + b"[" * 200_000 + b"]" * 200_000 + b"}",
    "truncated": b'{"model":"m"',
}


@pytest.mark.parametrize("body", BAD.values(), ids=BAD.keys())
def test_k1_what_parsers_disagree_on_is_refused(body):
    with pytest.raises(MalformedBody) as caught:
        parse(body)
    assert caught.value.message


GOOD = {
    "empty object": b"{}",
    "white space": b' \t\r\n{ "model" : "m" }\n',
    "escaped key": b'{"\\u006dodel":"m"}',
    "surrogate pair": b'{"t":"\\ud83d\\ude00"}',
    "surrogate-like text after a backslash": b'{"t":"\\\\ud800"}',
    "NUL escaped": b'{"t":"\\u0000"}',
    "integers at the edges": b'{"a":9223372036854775807,"b":-9223372036854775808,"c":-0}',
    "largest float": b'{"t":1.7976931348623157e308}',
    "subnormal": b'{"t":5e-324}',
    "equal keys in different objects": b'{"a":{"k":1},"b":{"k":2},"c":[{"k":3}]}',
    "keys that differ by case": b'{"x":1,"X":2}',
    "just deep enough": b'{"a":' + b"[" * (MAX_DEPTH - 1) + b"]" * (MAX_DEPTH - 1) + b"}",
    "brackets in a string": b'{"t":"' + b"[{" * 500 + b'"}',
}


@pytest.mark.parametrize("body", GOOD.values(), ids=GOOD.keys())
def test_what_all_parsers_read_alike_is_read(body):
    document = parse(body)
    assert document == json.loads(body) == orjson.loads(body) == msgspec.json.decode(body)


MANY = {
    "zeros": (b"0", 1),
    "empty objects": (b"{}", 2),
    "empty strings": (b'""', 1),
    "members": (b'{"a":"b\\\\","c,":0}', 3),
}


@pytest.mark.parametrize(("unit", "openings"), MANY.values(), ids=MANY.keys())
def test_a_body_of_too_many_values_is_refused_before_any_is_built(unit, openings):
    most = (MAX_VALUES - 2) // openings  # the body's own `{` and `[` count, too
    assert len(parse(b'{"x":[' + b",".join([unit] * most) + b"]}")["x"]) == most
    # Cut off, so that a parser that gets to build anything says something else.
    with pytest.raises(MalformedBody, match="too many parts"):
        parse(b'{"x":[' + b",".join([unit] * (most + 2)))


@pytest.mark.parametrize("text", [b"[{,", b'\\"[,', b"\\\\,[", b'\\\\\\"{,'])
def test_what_looks_like_structure_in_text_is_not_counted(text):
    body = b'{"t":"' + text * MAX_VALUES + b'","u":["' + text * 9 + b'"]}'
    assert parse(body) == orjson.loads(body)


def test_the_message_names_only_our_own_fields():
    with pytest.raises(MalformedBody) as caught:
        parse(b'{"model":"a","model":"b"}')
    assert caught.value.where == "model"
    with pytest.raises(MalformedBody) as caught:
        parse(b'{"canary":1,"canary":2}')
    assert "canary" not in str(caught.value)


def test_the_message_gives_the_byte_offset():
    with pytest.raises(MalformedBody) as caught:
        parse('{"é":tru}'.encode())
    assert caught.value.where == "byte 6"


_json = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**63 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(exclude_categories=["Cs"])),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(st.text(st.characters(exclude_categories=["Cs"])), inner, max_size=4)
    ),
    max_leaves=20,
)


@given(st.dictionaries(st.text(max_size=5), _json, max_size=5), st.booleans())
def test_every_json_object_is_read_as_it_was_written(document, escaped):
    try:
        body = json.dumps(document, ensure_ascii=escaped).encode()
    except UnicodeEncodeError:  # a lone surrogate in a top-level key
        return
    try:
        parsed = parse(body)
    except MalformedBody as error:
        assert "surrogate" in error.message  # noqa: PT017
        assert any("\ud800" <= c <= "\udfff" for key in document for c in key)
        return
    assert parsed == document


@given(st.binary(max_size=60))
def test_no_bytes_make_it_raise_anything_else(body):
    try:
        document = parse(body)
    except MalformedBody:
        return
    assert isinstance(document, dict)
