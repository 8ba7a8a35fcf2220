"""Headers in both directions (K4, K16, K17, K20, K43)."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.core.facts import Wire
from gateway.wire.headers import client_response_headers, upstream_request_headers

KEY = "sk-provider-canary"


def sent(headers, wire=Wire.CHAT, **options):
    encoded = [(name.encode(), value.encode()) for name, value in headers]
    out = upstream_request_headers(wire, encoded, KEY, **options)
    return [(name.decode(), value.decode()) for name, value in out]


OURS = [
    ("content-type", "application/json"),
    ("accept-encoding", "identity"),
    ("authorization", f"Bearer {KEY}"),
]

CLAUDE_CODE = [
    ("accept", "application/json"),
    ("user-agent", "claude-cli/2.1.330 (external, cli)"),
    ("anthropic-version", "2023-06-01"),
    ("anthropic-beta", "claude-code-20250219,interleaved-thinking-2025-05-14"),
    ("anthropic-dangerous-direct-browser-access", "true"),
    ("anthropic-something-new", "1"),
    ("x-app", "cli"),
    ("x-claude-code-session-id", "s"),
    ("x-stainless-retry-count", "0"),
    ("x-stainless-timeout", "600"),
]

CODEX = [
    ("originator", "codex_exec"),
    ("session-id", "s"),
    ("thread-id", "t"),
    ("x-client-request-id", "r"),
    ("x-codex-turn-metadata", '{"model":"m"}'),
    ("x-codex-window-id", "w"),
    ("openai-beta", "responses=x"),
    ("traceparent", "00-x"),
]


@pytest.mark.parametrize("headers", [CLAUDE_CODE, CODEX], ids=["claude code", "codex"])
def test_k43_the_clients_own_headers_travel_unchanged_and_in_order(headers):
    assert sent(headers) == headers + OURS


STRIPPED = [
    "Host", "Content-Length", "Transfer-Encoding", "Connection", "Keep-Alive", "Proxy-Connection",
    "Proxy-Authorization", "TE", "Trailer", "Upgrade", "HTTP2-Settings", "Expect",
    "Authorization", "X-API-Key", "api-key", "Cookie", "DPoP", "Client-Cert",
    "X-Model", "x_ai_eg_model", "X-Model-Id",
    "X-Forwarded-For", "X-Forwarded-Host", "X-Forwarded-Uri", "X-Forwarded-Client-Cert",
    "Forwarded", "Via", "X-Real-IP", "True-Client-IP", "CF-Connecting-IP", "X-Original-URL",
    "X-Rewrite-URL", "X-Envoy-Original-Path", "X-HTTP-Method-Override",
    "Idempotency-Key", "Range", "Ocp-Apim-Subscription-Key", "X-Portkey-Config", "x_portkey_config",
    "Helicone-Target-Url", "X-LiteLLM-Api-Key",
    "X-Sluicegate-Tier", "x-sluicegate-decision-id",
    "OpenAI-Organization", "OpenAI-Project", "anthropic-user-profile-id",
    "anthropic-workspace-id", "Accept-Encoding", "Content-Type", "Content-Encoding",
    "Content-Digest", "x_api_key", "X_Forwarded_For", "openai_organization",
]  # fmt: skip


@pytest.mark.parametrize("name", STRIPPED)
@pytest.mark.parametrize("wire", [Wire.CHAT, Wire.MESSAGES])
def test_k4_what_must_not_travel_is_stripped(name, wire):
    out = sent([(name, "client-canary"), (name.lower(), "client-canary")], wire)
    assert "client-canary" not in str(out)
    assert len(out) == 3


def test_k4_what_connection_names_is_for_one_hop():
    headers = [("Connection", "close, X-Secret-Hop"), ("x-secret-hop", "1"), ("x-kept", "2")]
    assert sent(headers) == [("x-kept", "2"), *OURS]


def test_k4_connection_cannot_take_our_own_headers_away():
    out = sent([("connection", "authorization, content-type, openai-project")],
               configured={"OpenAI-Project": "proj_1"})  # fmt: skip
    assert out == [("openai-project", "proj_1"), *OURS]


def test_the_endpoint_says_whose_account_it_is():
    out = sent([("openai-organization", "org-client")], configured={"OpenAI-Organization": "org-o"})
    assert [value for name, value in out if name == "openai-organization"] == ["org-o"]


def test_each_provider_gets_its_own_form_of_credential():
    for wire in Wire:
        out = sent([("authorization", "Bearer client"), ("x-api-key", "client")], wire)
        credentials = [(n, v) for n, v in out if n in ("authorization", "x-api-key")]
        if wire in (Wire.MESSAGES, Wire.COUNT_TOKENS):
            assert credentials == [("x-api-key", KEY)]
        else:
            assert credentials == [("authorization", f"Bearer {KEY}")]


def test_an_upstream_without_a_key_gets_none():
    out = upstream_request_headers(Wire.CHAT, [(b"authorization", b"Bearer client")], "")
    assert [name for name, _ in out] == [b"content-type", b"accept-encoding"]


@pytest.mark.parametrize("key", ["a b", "a\r\nx: y", "é", "a\x00", "k\n"])
def test_k20_a_key_that_breaks_the_header_block_is_not_repeated(key):
    with pytest.raises(ValueError, match="visible ASCII") as caught:
        upstream_request_headers(Wire.CHAT, [], key)
    assert key not in str(caught.value)
    with pytest.raises(ValueError, match="visible ASCII"):
        upstream_request_headers(Wire.CHAT, [], KEY, {"openai-project": key})
    with pytest.raises(ValueError, match="token"):
        upstream_request_headers(Wire.CHAT, [], KEY, {key: "v"})


@given(st.lists(st.tuples(st.binary(max_size=8), st.binary(max_size=12)), max_size=5))
def test_nothing_that_travels_can_end_a_line(headers):
    for name, value in upstream_request_headers(Wire.CHAT, headers, KEY):
        assert name
        assert not set(name) & set(b"\r\n\x00 :")
        assert not set(value) & set(b"\r\n\x00")
    for _, value in client_response_headers(Wire.CHAT, headers):
        assert not set(value) & set(b"\r\n\x00")


UPSTREAM = [
    (b"Content-Type", b"text/event-stream"),
    (b"Date", b"x"),
    (b"Server", b"x"),
    (b"Set-Cookie", b"account=secret"),
    (b"Connection", b"keep-alive"),
    (b"Transfer-Encoding", b"chunked"),
    (b"Content-Length", b"5"),
    (b"Content-Encoding", b"identity"),
    (b"x-request-id", b"up_1"),
    (b"openai-organization", b"org-secret"),
    (b"openai-processing-ms", b"12"),
    (b"openai-version", b"2020-10-01"),
    (b"OpenAI-Model", b"served"),
    (b"X-Models-Etag", b"e"),
    (b"x-codex-turn-state", b"t"),
    (b"x-reasoning-included", b"1"),
    (b"x-ratelimit-remaining-requests", b"9"),
    (b"retry-after", b"3"),
    (b"x-should-retry", b"true"),
    (b"anthropic-organization-id", b"org-secret"),
    (b"anthropic-ratelimit-requests-remaining", b"9"),
    (b"anthropic-ratelimit-unified-status", b"allowed"),
    (b"anthropic-new-notice", b"n"),
    (b"location", b"https://elsewhere.example"),
    (b"cf-ray", b"x"),
]


def test_responses_pass_by_the_list():
    assert client_response_headers(Wire.RESPONSES, UPSTREAM) == [
        (b"content-type", b"text/event-stream"),
        (b"x-upstream-request-id", b"up_1"),
        (b"openai-processing-ms", b"12"),
        (b"openai-version", b"2020-10-01"),
        (b"openai-model", b"served"),
        (b"x-models-etag", b"e"),
        (b"x-codex-turn-state", b"t"),
        (b"x-reasoning-included", b"1"),
    ]


def test_anthropic_notices_pass_and_account_names_do_not():
    upstream = [(b"request-id", b"up_2"), *UPSTREAM[-6:]]
    assert client_response_headers(Wire.MESSAGES, upstream) == [
        (b"x-upstream-request-id", b"up_2"),
        (b"anthropic-new-notice", b"n"),
    ]


@pytest.mark.parametrize(("status", "told"), [(200, False), (429, True), (529, True)])
def test_an_upstream_error_keeps_its_retry_advice(status, told):
    names = [n for n, _ in client_response_headers(Wire.CHAT, UPSTREAM, status=status)]
    assert (b"retry-after" in names) is (b"x-should-retry" in names) is told


def test_an_endpoint_that_gives_two_ids_of_a_call_gives_the_caller_one():
    sent = [(b"request-id", b"req_1"), (b"x-request-id", b"req_2")]
    assert client_response_headers(Wire.MESSAGES, sent) == [(b"x-upstream-request-id", b"req_1")]
