"""Framing and routes: one notion of the request (K1, K3, K11, K13)."""

import json

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.core.catalogue import CatalogueEntry
from gateway.core.facts import Wire
from gateway.core.reasons import Reason
from gateway.core.refusal import Refusal
from gateway.wire.dialects import Dialect
from gateway.wire.framing import check_framing
from gateway.wire.headers import combined
from gateway.wire.models import model_entry, model_list
from gateway.wire.routes import Route, match, path_of

VERSION = {b"anthropic-version": b"2023-06-01"}

TAKEN = [
    ("POST", b"/v1/chat/completions", b"", Route(Wire.CHAT, Dialect.CHAT, "/v1/chat/completions")),
    ("POST", b"/v1/responses", b"", Route(Wire.RESPONSES, Dialect.RESPONSES, "/v1/responses")),
    ("POST", b"/v1/embeddings", b"", Route(Wire.EMBEDDINGS, Dialect.OPENAI, "/v1/embeddings")),
    ("POST", b"/v1/messages", b"", Route(Wire.MESSAGES, Dialect.ANTHROPIC, "/v1/messages")),
    ("POST", b"/v1/messages", b"beta=true",
     Route(Wire.MESSAGES, Dialect.ANTHROPIC, "/v1/messages?beta=true")),
    ("POST", b"/v1/messages/count_tokens", b"beta=true",
     Route(Wire.COUNT_TOKENS, Dialect.ANTHROPIC, "/v1/messages/count_tokens?beta=true")),
    ("GET", b"/v1/models", b"", Route(Wire.MODELS, Dialect.OPENAI)),
    ("GET", b"/v1/models", b"limit=20&after_id=x", Route(Wire.MODELS, Dialect.OPENAI)),
    ("GET", b"/v1/models/gpt-5.5-cyber", b"",
     Route(Wire.MODELS, Dialect.OPENAI, model_id="gpt-5.5-cyber")),
    ("GET", b"/v1/models/zai/glm-5.2", b"",
     Route(Wire.MODELS, Dialect.OPENAI, model_id="zai/glm-5.2")),
    ("GET", b"/v1/models/zai%2Fglm-5.2", b"",
     Route(Wire.MODELS, Dialect.OPENAI, model_id="zai/glm-5.2")),
    ("HEAD", b"/", b"", Route(None, Dialect.OPENAI)),
    ("HEAD", b"/api/hello", b"", Route(None, Dialect.OPENAI)),
]  # fmt: skip


@pytest.mark.parametrize(("method", "path", "query", "route"), TAKEN)
def test_the_allow_list(method, path, query, route):
    assert match(method, path, query, {}) == route


def test_whose_model_list_is_told_by_the_version_header():
    assert match("GET", b"/v1/models", b"", VERSION) == Route(Wire.MODELS, Dialect.ANTHROPIC)
    assert match("GET", b"/v1/models/m", b"", VERSION).dialect is Dialect.ANTHROPIC


TEMPLATES = [path for method, path, *_ in TAKEN if method == "POST"] + [b"/v1/models"]


def _variants(path):
    head, _, tail = path.rpartition(b"/")
    yield path + b"/"
    yield path + b"//"
    yield b"/" + path
    yield path.replace(b"/", b"//", 2)
    yield path.upper()
    yield path.replace(b"v1", b"V1")
    yield path.replace(b"/v1", b"/v1/.")
    yield path.replace(b"/v1", b"/v1/../v1")
    yield path.replace(b"/v1", b"/v1/%2e%2e/v1")
    yield path.replace(b"/v1", b"/v1/%2e")
    yield path.replace(b"/v1", b"/./v1")
    yield b"/api/hello/.." + path
    yield head + b"%2f" + tail
    yield head + b"%2F" + tail
    yield head + b"%252f" + tail
    yield head + b"\\" + tail
    yield head + b"/%" + b"%x" % tail[0] + tail[1:]
    yield head + b"/;x=1/" + tail
    yield path + b";x=1"
    yield path + b"%00"
    yield path + b"\x00"
    yield path + b"%20"
    yield path + b" "
    yield path + b"?"
    yield path + b"%3fbeta=true"
    yield path + b"%23"
    yield path + b"#fragment"
    yield path + b".json"
    yield path + b"\r\n"
    yield b"http://127.0.0.1:8080" + path
    yield b"//127.0.0.1" + path
    yield path[1:]
    yield b"/x" + path
    yield path.replace(b"v1", b"v2")
    yield path.replace(b"e", "\u0435".encode(), 1)
    yield b""
    yield b"*"


@pytest.mark.parametrize("path", TEMPLATES)
def test_k3_every_other_spelling_of_a_path_is_no_route(path):
    for variant in _variants(path):
        if variant == path:
            continue
        for method in ("POST", "GET"):
            found = match(method, variant, b"", {})
            assert isinstance(found, Refusal), variant
            assert found.reason is Reason.ROUTE_NOT_FOUND


@pytest.mark.parametrize(
    "method", ["GET", "PUT", "DELETE", "PATCH", "OPTIONS", "TRACE", "post", ""]
)
def test_k11_every_other_method_is_no_route(method):
    for path in (*TEMPLATES, b"/", b"/api/hello", b"/v1/models/m"):
        if method == "GET" and path.startswith(b"/v1/models"):
            continue
        assert match(method, path, b"", {}).reason is Reason.ROUTE_NOT_FOUND


def test_a_path_of_ours_says_which_method_it_takes():
    for method, path, *_ in TAKEN:
        if path in TEMPLATES:
            for other in {"GET", "POST", "DELETE"} - {method}:
                message = match(other, path, b"", {}).message
                assert f"no such route: {path.decode()} takes {method} and no other" in message
                assert len(message) <= 100


def test_inv8_no_path_of_a_model_says_more_than_any_other():
    """It would tell that there is a model, or at least that its id was read."""
    said = {match("POST", b"/v1/models/" + each, b"", {}) for each in (b"m", b"mythos-6", b"..")}
    assert said == {match("POST", b"/v1/none", b"", {})}


def test_the_path_of_each_wire():
    for wire in Wire:
        method = "GET" if wire is Wire.MODELS else "POST"
        assert match(method, path_of(wire).encode(), b"", {}).wire is wire


@pytest.mark.parametrize(
    "path",
    [b"/invocations", b"/tokenize", b"/pause", b"/update_weights", b"/v1/load_lora_adapter",
     b"/v1/files", b"/v1/batches", b"/v1/messages/batches", b"/v1/responses/resp_1",
     b"/v1/realtime", b"/v1/completions", b"/metrics", b"/docs", b"/openapi.json", b"/admin",
     b"/v1"],
)  # fmt: skip
@pytest.mark.parametrize("method", ["GET", "POST", "DELETE"])
def test_k11_what_an_upstream_may_serve_beside_is_not_served(path, method):
    assert match(method, path, b"", {}).reason is Reason.ROUTE_NOT_FOUND


@pytest.mark.parametrize(
    "query",
    [b"model=x", b"beta=true&model=x", b"beta=false", b"beta=true&", b"Beta=true", b"x",
     b"%62eta=true", b"beta=true;model=x"],
)  # fmt: skip
@pytest.mark.parametrize("path", [p for p in TEMPLATES if p != b"/v1/models"])
def test_k1_a_query_cannot_say_what_the_body_says(path, query):
    found = match("POST", path, query, {})
    assert found.reason is Reason.REQUEST_INVALID
    assert "body" in found.message


def test_k1_nor_can_the_query_of_a_list():
    assert match("GET", b"/v1/models", b"model=x", {}).reason is Reason.REQUEST_INVALID
    assert match("POST", b"/v1/chat/completions", b"beta=true", {}).reason is Reason.REQUEST_INVALID
    assert match("HEAD", b"/", b"x=1", {}).reason is Reason.ROUTE_NOT_FOUND


@pytest.mark.parametrize(
    "model_id",
    [b"", b".", b"..", b"../x", b"a/../b", b"a//b", b"a/", b"/a", b"%2e%2e", b"a%2f..%2fb", b"a%00",
     b"a%0d%0a", b"a b", b"a%20b", b"%252e", b"a;b", b"a?b", "é".encode(), b"%C3%A9", b"a" * 129],
)  # fmt: skip
def test_k3_a_model_id_in_a_path_is_decoded_once_and_looks_like_one(model_id):
    assert match("GET", b"/v1/models/" + model_id, b"", {}).reason is Reason.ROUTE_NOT_FOUND


@pytest.mark.parametrize("path", [b"/v1/responses", b"/v1/realtime", b"/nowhere"])
def test_websocket_is_refused_at_once(path):
    headers = {b"connection": b"Upgrade", b"upgrade": b"WebSocket"}
    assert match("GET", path, b"", headers).reason is Reason.WEBSOCKET_NOT_OFFERED
    assert match("POST", path, b"model=x", headers).reason is Reason.WEBSOCKET_NOT_OFFERED


@given(st.text(max_size=8), st.binary(max_size=30), st.binary(max_size=10))
def test_routing_never_raises(method, path, query):
    assert isinstance(match(method, path, query, {}), Route | Refusal)


HOST = (b"host", b"gate.example:8080")
JSON = (b"content-type", b"application/json")
LENGTH = (b"content-length", b"5")
POST = [HOST, JSON, LENGTH]


def framed(headers, method="POST", target=b"/v1/messages", version="1.1"):
    lowered = [(name.lower(), value) for name, value in headers]
    return check_framing(method, target, combined(lowered), version)


def test_k1_the_version_is_one_whose_framing_is_known():
    chunked = [HOST, JSON, (b"transfer-encoding", b"chunked")]
    assert framed(POST, version="1.0") is None
    for headers, version in ((chunked, "1.0"), (POST, "2.0"), (POST, "0.9")):
        assert framed(headers, version=version).reason is Reason.FRAMING_INVALID


def test_k3_a_target_has_no_fragment():
    assert framed(POST, target=b"/v1/messages#x").reason is Reason.FRAMING_INVALID


@pytest.mark.parametrize(
    "headers",
    [
        POST,
        [HOST, JSON, (b"transfer-encoding", b"chunked")],
        [HOST, JSON, (b"Transfer-Encoding", b"Chunked")],
        [(b"Host", b"[::1]:8080"), (b"Content-Type", b"application/json; charset=utf-8"), LENGTH],
        [HOST, (b"content-type", b'application/json;charset="UTF-8"'), LENGTH],
        [*POST, (b"content-encoding", b"identity")],
        [*POST, (b"expect", b"100-Continue")],
        [*POST, (b"accept", b"a"), (b"accept", b"b")],
    ],
)
def test_well_framed(headers):
    assert framed(headers) is None


BADLY_FRAMED = {
    "no host": [JSON, LENGTH],
    "two hosts": [HOST, *POST],
    "two different hosts": [(b"host", b"evil.example"), *POST],
    "empty host": [(b"host", b""), JSON, LENGTH],
    "host with a path": [(b"host", b"gate/v1/messages"), JSON, LENGTH],
    "host with a query": [(b"host", b"gate?x"), JSON, LENGTH],
    "host with a fragment": [(b"host", b"gate#x"), JSON, LENGTH],
    "host with user info": [(b"host", b"a@gate"), JSON, LENGTH],
    "host with a space": [(b"host", b"gate evil"), JSON, LENGTH],
    "two lengths": [*POST, LENGTH],
    "two different lengths": [*POST, (b"content-length", b"6")],
    "a list of lengths": [HOST, JSON, (b"content-length", b"5, 5")],
    "a signed length": [HOST, JSON, (b"content-length", b"+5")],
    "a negative length": [HOST, JSON, (b"content-length", b"-5")],
    "a hexadecimal length": [HOST, JSON, (b"content-length", b"0x5")],
    "a length of other digits": [HOST, JSON, (b"content-length", "٥".encode())],
    "length and coding": [*POST, (b"transfer-encoding", b"chunked")],
    "two codings": [HOST, JSON, *[(b"transfer-encoding", b"chunked")] * 2],
    "a list of codings": [HOST, JSON, (b"transfer-encoding", b"gzip, chunked")],
    "an odd coding": [HOST, JSON, (b"transfer-encoding", b"xchunked")],
    "coding with a control character": [HOST, JSON, (b"transfer-encoding", b"\x0bchunked")],
    "no body": [HOST, JSON],
    "an empty body": [HOST, JSON, (b"content-length", b"0")],
    "another expectation": [*POST, (b"expect", b"200-ok")],
    "a line feed in a value": [*POST, (b"x", b"a\nb: c")],
    "a NUL in a value": [*POST, (b"x", b"a\x00")],
}


@pytest.mark.parametrize("headers", BADLY_FRAMED.values(), ids=BADLY_FRAMED.keys())
def test_k1_odd_framing_is_refused(headers):
    found = framed(headers)
    assert found is not None
    assert found.reason is Reason.FRAMING_INVALID


@pytest.mark.parametrize(
    "headers",
    [
        [*POST, (b"content-encoding", b"gzip")],
        [*POST, (b"content-encoding", b"identity, gzip")],
        [*POST, (b"content-encoding", b"identity"), (b"content-encoding", b"br")],
        [HOST, LENGTH],
        [*POST, JSON],
        [*POST, (b"content-type", b"text/plain")],
        [HOST, LENGTH, (b"content-type", b"text/plain")],
        [HOST, LENGTH, (b"content-type", b"multipart/form-data; boundary=x")],
        [HOST, LENGTH, (b"content-type", b"application/json; charset=utf-16")],
        [HOST, LENGTH, (b"content-type", b"application/json; charset=utf-8; charset=utf-7")],
        [HOST, LENGTH, (b"content-type", b"application/json, text/plain")],
        [HOST, LENGTH, (b"content-type", b"application/jsonp")],
    ],
)
def test_k13_a_body_in_another_coding_is_refused(headers):
    assert framed(headers).reason is Reason.ENCODING_UNSUPPORTED


@pytest.mark.parametrize(
    "target",
    [b"http://gate/v1/messages", b"//", b"*", b"", b"gate:443", b"/v1/a b", b"/v1/\x00", b"/\xff"],
)
def test_k3_only_the_path_is_a_target(target):
    found = framed(POST, target=target)
    assert (found is None) == (target == b"//")  # which is no route
    assert found is None or found.reason is Reason.FRAMING_INVALID


def test_only_a_post_carries_a_body():
    assert framed([HOST], method="GET") is None
    assert framed([HOST, (b"content-length", b"0")], method="GET") is None
    for extra in (LENGTH, (b"transfer-encoding", b"chunked")):
        assert framed([HOST, extra], method="GET").reason is Reason.FRAMING_INVALID


@given(st.lists(st.tuples(st.sampled_from([b"host", b"content-length", b"content-type", b"x"]),
                          st.binary(max_size=8)), max_size=6), st.binary(max_size=12))  # fmt: skip
def test_k20_framing_never_raises_and_never_repeats(headers, target):
    marked = [*headers, (b"x-canary", b"CANARY")]
    found = check_framing("POST", target + b"CANARY", combined(marked))
    assert found is not None
    assert "CANARY" not in repr(found)


def entry(model_id, created):
    return CatalogueEntry(
        id=model_id, display_name=model_id.title(), endpoint="e", wires=(Wire.CHAT,),
        stage="open", created_at=created, max_output_tokens=64_000,
    )  # fmt: skip


ENTRIES = [entry("old", "2026-01-01T00:00:00Z"), entry("new", "2026-10-01T00:00:00Z")]


def test_models_as_openai_lists_them():
    body = json.loads(model_list(Dialect.OPENAI, ENTRIES))
    assert body["object"] == "list"
    assert [model["id"] for model in body["data"]] == ["new", "old"]
    assert body["data"][1] == {
        "id": "old", "object": "model", "created": 1767225600, "owned_by": "sluicegate",
    }  # fmt: skip
    assert json.loads(model_entry(Dialect.CHAT, ENTRIES[0])) == body["data"][1]
    assert json.loads(model_list(Dialect.OPENAI, {})) == {"object": "list", "data": []}


def test_models_as_anthropic_lists_them():
    body = json.loads(model_list(Dialect.ANTHROPIC, ENTRIES))
    assert (body["first_id"], body["last_id"], body["has_more"]) == ("new", "old", False)
    assert body["data"][0]["created_at"] == "2026-10-01T00:00:00Z"
    assert json.loads(model_list(Dialect.ANTHROPIC, {}))["first_id"] is None


def test_the_sdks_types_take_our_model_entries():
    from anthropic.types import ModelInfo  # noqa: PLC0415
    from openai.types import Model  # noqa: PLC0415

    assert Model.model_validate_json(model_entry(Dialect.OPENAI, ENTRIES[0])).id == "old"
    assert ModelInfo.model_validate_json(model_entry(Dialect.ANTHROPIC, ENTRIES[0])).id == "old"
    assert msgspec.json.decode(model_entry(Dialect.ANTHROPIC, ENTRIES[0]))["max_tokens"] == 64_000
