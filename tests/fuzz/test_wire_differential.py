"""Differential fuzz (K1, invariant 1): no body that passes is read with another model elsewhere.

Bodies are made by mutating realistic ones at the level of bytes and of JSON tokens. Whatever
``read_request`` accepts must be read with the same model, and the same members at every depth, by
json, orjson and msgspec, and by two readings of our own that keep the first, or the last, of equal
keys and fold case. The edited body is held to the same. A lax reading in the gate's place is caught
by the same fuzz: the negative control.
"""

import json
import random

import msgspec
import orjson

from gateway.core.facts import Wire
from gateway.core.refusal import Refused
from gateway.wire.edits import Edits, apply
from gateway.wire.request import read_request

CASES = 40_000
SEED = 20_261_123

_IMAGE = {"type": "image_url", "image_url": {"url": "data:image/png;base64,iVBORw0KGgo="}}
_TOOL = {"type": "function", "function": {"name": "scan", "parameters": {
    "type": "object", "properties": {"model": {"type": "string"}}}}}  # fmt: skip
SEEDS = {
    Wire.CHAT: {
        "model": "open-model", "stream": True, "stream_options": {"include_usage": False},
        "max_tokens": 128, "temperature": 0.2, "n": 1, "seed": 9007199254740993,
        "messages": [{"role": "system", "content": "caf\u00e9 \U0001f512"},
                     {"role": "user", "content": [{"type": "text", "text": "model"}, _IMAGE]}],
        "tools": [_TOOL], "metadata": {"model": "x"},
    },
    Wire.MESSAGES: {
        "model": "open-model", "max_tokens": 1024, "thinking": {"type": "adaptive"},
        "system": [{"type": "text", "text": "s", "cache_control": {"type": "ephemeral"}}],
        "fallbacks": [{"model": "open-model-2", "max_tokens": 10}],
        "messages": [{"role": "user", "content": "hi"}, {"role": "assistant", "content": [
            {"type": "tool_use", "id": "t", "name": "scan", "input": {"model": "x", "n": 1.5}}]}],
    },
    Wire.RESPONSES: {
        "model": "open-model", "store": False, "reasoning": {"effort": "high"},
        "access_programs": {"cyber": "standard"}, "include": ["reasoning.encrypted_content"],
        "input": [{"role": "user", "content": [{"type": "input_text", "text": "\u2028\\ud800"}]}],
        "tools": [{"type": "web_search"}, {"type": "custom", "name": "patch"}],
    },
    Wire.EMBEDDINGS: {"model": "open-model", "input": [[1, 2, 3], [4]], "dimensions": 256},
}  # fmt: skip

MODEL_KEYS = [
    b'"model"', b'"\\u006dodel"', b'"mod\\u0065l"', b'"\\u006D\\u006F\\u0064\\u0065\\u006C"',
    b'"Model"', b'"MODEL"', b'"model "', b'"\\tmodel"', b'"mo\\u0064el\\u0000"',
    '"m\u043edel"'.encode(), '"ｍodel"'.encode(), b'"mode\xc5\x82"', b'"models"', b'"fallbacks"',
    b'"mod\xffel"', b'"mo\\/del"', b'"mo\\del"', b"'model'", b"model", b'"model\\ud800"', b'""',
]  # fmt: skip
MODEL_VALUES = [
    b'"restricted"', b'"restr\\u0069cted"', b'["restricted"]', b'{"model":"restricted"}', b"null",
    b'"restricted\\ud83d"', b'"restricted\xed\xa0\x80"', b"1", b"1e999", b"NaN", b"-0", b'""',
    b"18446744073709551616", b"true", b'"restricted',
]  # fmt: skip
TOKENS = [
    b"{", b"}", b"[", b"]", b",", b":", b'"', b"\\", b"\\u", b"\\ud800", b"\\udc00", b"\xff",
    b"\xc0",
    b"\xed\xa0\x80", b"\xef\xbb\xbf", b"\x00", b"\n", b"\x0b", "\u00a0".encode(), b"//x\n", b"/**/",
    b"NaN", b"Infinity", b"-Infinity", b"1e999", b"1.0", b"01", b"+1", b"0x1", b"9" * 20,
    b"null", b"true", b"\xf4\x90\x80\x80", b'"model":"restricted",', b',"model":"restricted"', b" ",
]  # fmt: skip


def member(dice):
    space = dice.choice([b"", b" ", b"\n", b"\t\r"])
    return space.join([b"", dice.choice(MODEL_KEYS), b":", dice.choice(MODEL_VALUES), b""])


def mutate(dice, body):  # noqa: PLR0911 - one return a mutation
    """One change, the likes of which smuggle a second reading past a parser."""
    kind = dice.randrange(9)
    position = dice.randrange(len(body) + 1)
    if kind <= 1:  # a member more, at the front or the end of some object
        opens = [i for i, byte in enumerate(body) if byte == ord("{")]
        if dice.random() < 0.5 and opens:
            at = opens[0] if dice.random() < 0.6 else dice.choice(opens)
            return body[: at + 1] + member(dice) + b"," + body[at + 1 :]
        closes = [i for i, byte in enumerate(body) if byte == ord("}")]
        at = (closes[-1] if dice.random() < 0.6 else dice.choice(closes)) if closes else position
        return body[:at] + b"," + member(dice) + body[at:]
    if kind == 2:  # respell the key
        return body.replace(b'"model"', dice.choice(MODEL_KEYS), dice.choice([1, -1]))
    if kind == 3:  # another value
        return body.replace(b'"open-model"', dice.choice(MODEL_VALUES), 1)
    if kind == 4:
        return body[:position] + dice.choice(TOKENS) + body[position:]
    if kind == 5:
        return body[:position] + bytes([dice.randrange(256)]) + body[position + 1 :]
    if kind == 6:
        return body[:position] + body[position + dice.randrange(1, 8) :]
    if kind == 7:  # repeat a piece
        end = min(len(body), position + dice.randrange(1, 60))
        return body[:end] + body[position:end] + body[end:]
    return (
        dice.choice([b"\xef\xbb\xbf", b" ", b"\n\t", b"[", b"0"]) * dice.randrange(2)
        + body
        + (dice.choice([b"", b" ", b"\r\n", b"\x00", b"}", b"{}", body, b"]", b"\x1a"]))
    )


def bodies(seed, count):
    dice = random.Random(seed)
    wires = list(SEEDS)
    for _ in range(count):
        wire = dice.choice(wires)
        document = dict(SEEDS[wire])
        if dice.random() < 0.3:
            keys = list(document)
            dice.shuffle(keys)
            document = {key: document[key] for key in keys}
        layout = dice.choice([{"separators": (",", ":")}, {}, {"indent": 1}])
        body = json.dumps(document, ensure_ascii=dice.random() < 0.5, **layout).encode()
        for _ in range(dice.choice([1, 1, 1, 2, 3])):
            body = mutate(dice, body)
        yield wire, body


def fold(key):
    return key.casefold().strip()


def first_wins(pairs):
    members = {}
    for key, value in pairs:
        members.setdefault(fold(key), value)
    return members


def last_wins(pairs):
    return {fold(key): value for key, value in pairs}


READERS = {
    "json": json.loads,
    "orjson": orjson.loads,
    "msgspec": msgspec.json.decode,
    "first wins, case folded": lambda body: json.loads(body, object_pairs_hook=first_wins),
    "last wins, case folded": lambda body: json.loads(body, object_pairs_hook=last_wins),
}
EXACT = ("json", "orjson", "msgspec")


def disagreement(body, document, model):
    """Which reader reads this body otherwise, or empty."""
    for name, reader in READERS.items():
        try:
            other = reader(body)
        except Exception:  # noqa: BLE001 - a reader of any kind may fail in its own way
            return f"{name} cannot read it"
        if not isinstance(other, dict) or other.get("model") != model:
            return f"{name} reads another model"
        if name in EXACT and repr(other) != repr(document):
            return f"{name} reads another document"
    return ""


def gate(wire, body):
    """What the gateway reads: document and model; ``None`` where it refuses."""
    try:
        read = read_request(wire, body)
    except Refused:
        return None
    return read.document, read.model


def lax_gate(_, body):
    """The negative control: json as it comes, last key wins."""
    try:
        document = json.loads(body)
    except ValueError:
        return None
    if isinstance(document, dict) and isinstance(document.get("model"), str):
        return document, document["model"]
    return None


def campaign(reading, seed, count):
    """Counts of accepted and refused bodies, and the disagreements found."""
    accepted, refused, found = 0, 0, []
    for wire, body in bodies(seed, count):
        read = reading(wire, body)
        if read is None:
            refused += 1
            continue
        accepted += 1
        if difference := disagreement(body, *read):
            found.append((difference, body))
    return accepted, refused, found


def test_k1_every_reader_reads_an_accepted_body_alike():
    accepted, refused, found = campaign(gate, SEED, CASES)
    assert found == []
    # The fuzz must work on both sides of the gate to say anything.
    assert accepted > CASES * 0.08
    assert refused > CASES * 0.4


def test_k1_the_same_fuzz_catches_a_lax_gate():
    _, _, found = campaign(lax_gate, SEED, 2_000)
    kinds = {difference for difference, _ in found}
    assert {"first wins, case folded reads another model", "orjson cannot read it"} <= kinds
    assert len(found) > 50


def test_k1_an_edited_body_is_read_alike_too():
    edits = Edits(model="served", safety_identifier="s", include_usage=True)
    edited_bodies = 0
    for wire, body in bodies(SEED + 1, 4_000):
        try:
            read = read_request(wire, body)
        except Refused:
            continue
        edited, made = apply(body, read.document, edits)
        assert "model" in made
        again = read_request(wire, edited)
        assert again.model == "served"
        assert set(again.other_models) <= {read.model, *read.other_models}
        assert disagreement(edited, again.document, "served") == ""
        edited_bodies += 1
    assert edited_bodies > 300
