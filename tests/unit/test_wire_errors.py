"""The one table (K39, K55, invariant 8), checked on the bytes and on the vendors' own SDKs."""

import json
from datetime import UTC, datetime

import anthropic
import httpx2
import openai
import pytest

from gateway.core.facts import Wire
from gateway.core.reasons import Fault, Reason
from gateway.core.refusal import LimitState, Refusal
from gateway.wire.dialects import Dialect, dialect_of, dialect_of_wire
from gateway.wire.errors import answer, row_of

NOW = 1_790_000_000.0
DENIED = Refusal(
    Reason.POLICY_DENIED,
    "Tier cyber:2 is required and you hold cyber:0.",
    "Complete identity vetting.",
    code="tier_too_low",
    rule="models.tier",
    decision_id="dec_1",
)


def limit(name, *, retry_s=0.0, remaining=0, key="subject", burst=50, rate=50, period_s=3600):
    return LimitState(
        name=name, key=key, limit=burst, remaining=remaining, reset_s=66.2, period_s=period_s,
        rate=rate, retry_s=retry_s,
    )  # fmt: skip


def say(dialect, refusal, **options):
    reply = answer(dialect, refusal, "req_1", now=NOW, **options)
    headers = dict(reply.headers)
    assert len(headers) == len(reply.headers), "no header stands twice"
    assert all(name == name.lower() for name in headers)
    assert headers[b"content-length"] == b"%d" % len(reply.body)
    return reply.status, headers, json.loads(reply.body)


def error_of(body):
    return body["error"]


@pytest.mark.parametrize("dialect", Dialect)
@pytest.mark.parametrize("reason", Reason)
def test_every_reason_has_an_answer_in_every_dialect(dialect, reason):
    status, headers, body = say(dialect, Refusal(reason, "Do this instead.", "Because."))
    assert 400 <= status < 600
    assert headers[b"content-type"] == b"application/json"
    assert headers[b"x-sluicegate-reason"] == reason.value.encode()
    assert b"x-sluicegate-decision-id" not in headers
    if dialect is Dialect.ANTHROPIC:
        assert headers[b"request-id"] == b"req_1"
        assert body["type"] == "error"
        assert body["request_id"] == "req_1"
        assert set(error_of(body)) == {"type", "message"}
    else:
        assert headers[b"x-request-id"] == b"req_1"
        assert set(error_of(body)) == {"message", "type", "param", "code"}
    if reason is not Reason.MODEL_NOT_FOUND:
        assert error_of(body)["message"].startswith("Do this instead. Because. [code=")


@pytest.mark.parametrize("reason", Reason)
def test_no_status_that_clients_take_for_something_else(reason):
    """409 is retried everywhere, 422 by the agents; a redirect would move the credential."""
    assert row_of(reason).status not in {409, 422, 425, 500}


@pytest.mark.parametrize("reason", [r for r in Reason if r.fault is Fault.GATEWAY])
@pytest.mark.parametrize("dialect", Dialect)
def test_k39_a_fault_of_ours_is_503_and_not_retried(dialect, reason):
    status, headers, body = say(dialect, Refusal(reason, "m"))
    assert (status, headers[b"x-should-retry"]) == (503, b"false")
    if dialect is Dialect.RESPONSES:
        assert error_of(body)["code"] == "server_is_overloaded"


@pytest.mark.parametrize(
    ("dialect", "status", "kind", "code"),
    [
        (Dialect.CHAT, 403, "permission_error", "tier_too_low"),
        (Dialect.OPENAI, 403, "permission_error", "tier_too_low"),
        (Dialect.RESPONSES, 400, "permission_error", "invalid_prompt"),
        (Dialect.ANTHROPIC, 403, "permission_error", None),
    ],
)
def test_k39_a_denial(dialect, status, kind, code):
    got, headers, body = say(dialect, DENIED, appeal="access@example.org")
    assert got == status
    assert headers[b"x-should-retry"] == b"false"
    assert headers[b"x-sluicegate-reason"] == b"tier_too_low"
    assert headers[b"x-sluicegate-decision-id"] == b"dec_1"
    assert (error_of(body)["type"], error_of(body).get("code")) == (kind, code)
    assert error_of(body)["message"] == (
        "Tier cyber:2 is required and you hold cyber:0. Complete identity vetting. "
        "[code=tier_too_low rule=models.tier decision=dec_1] Appeal: access@example.org"
    )


def test_the_status_of_a_denial_is_a_setting():
    settings = {Dialect.RESPONSES: 403, Dialect.CHAT: 400}
    assert say(Dialect.RESPONSES, DENIED, denial_status=settings)[0] == 403
    assert say(Dialect.CHAT, DENIED, denial_status=settings)[0] == 400
    assert say(Dialect.ANTHROPIC, DENIED, denial_status=settings)[0] == 403
    invalid = Refusal(Reason.REQUEST_INVALID, "m")
    assert say(Dialect.CHAT, invalid, denial_status={Dialect.CHAT: 451})[0] == 400


@pytest.mark.parametrize("reason", [Reason.APPROVAL_REQUIRED, Reason.STEP_UP_REQUIRED])
def test_step_up_and_approval(reason):
    for dialect, expected in ((Dialect.CHAT, 403), (Dialect.RESPONSES, 400)):
        status, headers, body = say(dialect, Refusal(reason, "m"))
        assert (status, error_of(body)["code"]) == (expected, "approval_required")
        assert headers[b"x-sluicegate-reason"] == reason.value.encode()


@pytest.mark.parametrize("dialect", Dialect)
def test_an_embargoed_model_and_a_missing_one_are_the_same_answer(dialect):
    rich = Refusal(
        Reason.MODEL_NOT_FOUND, "mythos-5 is embargoed", "wait", code="embargoed", rule="stage",
        decision_id="dec_9", retry_after_s=5.0, limits=(limit("requests", retry_s=5.0),),
    )  # fmt: skip
    secret = answer(dialect, rich, "req_1", now=NOW, appeal="a", denial_status={dialect: 451})
    assert secret == answer(dialect, Refusal(Reason.MODEL_NOT_FOUND, ""), "req_1")
    assert secret.status == 404
    headers = dict(secret.headers)
    assert headers[b"x-should-retry"] == b"false"
    assert b"dec_9" not in secret.body
    body = json.loads(secret.body)
    expected = "not_found_error" if dialect is Dialect.ANTHROPIC else "invalid_request_error"
    assert body["error"]["type"] == expected
    assert body["error"].get("code", "model_not_found") == "model_not_found"


@pytest.mark.parametrize(
    "reason",
    [Reason.CREDENTIAL_MISSING, Reason.CREDENTIAL_INVALID, Reason.CREDENTIAL_AMBIGUOUS],
)
@pytest.mark.parametrize("dialect", Dialect)
def test_k39_a_bad_credential(dialect, reason):
    status, headers, body = say(dialect, Refusal(reason, "m"))
    assert (status, headers[b"x-should-retry"]) == (401, b"false")
    assert headers[b"www-authenticate"].startswith(b"Bearer")
    assert error_of(body)["type"] == "authentication_error"


@pytest.mark.parametrize("reason", [Reason.LIMIT_EXCEEDED, Reason.ATTEMPTS_EXCEEDED])
@pytest.mark.parametrize("dialect", Dialect)
@pytest.mark.parametrize(
    ("wait", "told", "never"),
    [(0.2, b"1", False), (59.1, b"60", False), (60.0, b"60", False), (60.1, b"61", True),
     (3600.0, b"3600", True), (None, None, True)],
)  # fmt: skip
def test_k55_limits_by_the_rate_rows(dialect, reason, wait, told, never):
    status, headers, _ = say(dialect, Refusal(reason, "m", retry_after_s=wait))
    assert status == 429
    if never and dialect is Dialect.RESPONSES:
        told = None
    assert headers.get(b"retry-after") == told
    assert headers.get(b"x-should-retry") == (b"false" if never else None)


def test_the_wait_is_that_of_the_limit_that_refused():
    limits = (limit("requests", retry_s=12.5), limit("output_tokens", retry_s=3.0))
    refusal = Refusal(Reason.LIMIT_EXCEEDED, "m", limits=limits)
    assert say(Dialect.CHAT, refusal)[1][b"retry-after"] == b"13"


LIMITS = (
    limit("requests", remaining=4),
    limit("requests.daily", remaining=40, key="organisation"),
    limit("input_tokens", remaining=9_000, burst=10_000, rate=1_000, period_s=60),
    limit("output_tokens", retry_s=7.0, burst=500, rate=500, period_s=60),
    limit("streams", remaining=2, burst=3, rate=1, period_s=1),
)


def test_k55_ietf_headers():
    _, headers, _ = say(Dialect.CHAT, Refusal(Reason.LIMIT_EXCEEDED, "m", limits=LIMITS))
    assert headers[b"ratelimit-policy"] == (
        b'"requests.subject";q=50;w=3600, "requests.daily.organisation";q=50;w=3600, '
        b'"input_tokens.subject";q=10000;qu="tokens";w=600, '
        b'"output_tokens.subject";q=500;qu="tokens";w=60, '
        b'"streams.subject";q=3;qu="concurrent-requests"'
    )
    assert headers[b"ratelimit"] == (
        b'"requests.subject";r=4;t=67, "requests.daily.organisation";r=40;t=67, '
        b'"input_tokens.subject";r=9000;t=67, "output_tokens.subject";r=0;t=67, '
        b'"streams.subject";r=2'
    )


def test_k55_openai_headers_show_the_limit_that_binds():
    _, headers, _ = say(Dialect.CHAT, Refusal(Reason.LIMIT_EXCEEDED, "m", limits=LIMITS))
    assert {n: v for n, v in headers.items() if n.startswith(b"x-ratelimit")} == {
        b"x-ratelimit-limit-requests": b"50",
        b"x-ratelimit-remaining-requests": b"4",
        b"x-ratelimit-reset-requests": b"1m7s",
        b"x-ratelimit-limit-tokens": b"500",
        b"x-ratelimit-remaining-tokens": b"0",
        b"x-ratelimit-reset-tokens": b"1m7s",
    }


def test_k55_anthropic_headers():
    _, headers, _ = say(Dialect.ANTHROPIC, Refusal(Reason.LIMIT_EXCEEDED, "m", limits=LIMITS))
    ours = {n: v for n, v in headers.items() if n.startswith(b"anthropic-ratelimit")}
    assert len(ours) == 12
    assert ours[b"anthropic-ratelimit-input-tokens-remaining"] == b"9000"
    assert ours[b"anthropic-ratelimit-tokens-limit"] == b"500"
    reset = ours[b"anthropic-ratelimit-requests-reset"].decode()
    assert datetime.fromisoformat(reset) == datetime.fromtimestamp(NOW + 67, UTC)


def test_a_text_that_could_break_a_header_stays_out_of_it():
    refusal = Refusal(Reason.POLICY_DENIED, "m", code="a\r\nset-cookie: x", decision_id="b c")
    _, headers, body = say(Dialect.CHAT, refusal)
    assert b"x-sluicegate-reason" not in headers
    assert b"x-sluicegate-decision-id" not in headers
    assert error_of(body)["code"] == "a\r\nset-cookie: x"


def test_websocket_is_answered_at_once():
    status, headers, _ = say(Dialect.RESPONSES, Refusal(Reason.WEBSOCKET_NOT_OFFERED, "m"))
    assert status == 426
    assert headers[b"upgrade"] == b"HTTP/1.1"
    assert b"upgrade" in headers[b"connection"]


@pytest.mark.parametrize(
    "reason",
    [Reason.FRAMING_INVALID, Reason.REQUEST_TOO_LARGE, Reason.REQUEST_TIMEOUT,
     Reason.ENCODING_UNSUPPORTED],
)  # fmt: skip
def test_a_request_that_was_not_read_closes_the_connection(reason):
    assert say(Dialect.CHAT, Refusal(reason, "m"))[1][b"connection"] == b"close"


def test_only_a_denial_can_be_appealed():
    _, _, body = say(Dialect.CHAT, Refusal(Reason.LOG_UNAVAILABLE, "m"), appeal="a@b")
    assert "Appeal" not in error_of(body)["message"]


def test_the_dialect_of_any_request():
    version = {b"anthropic-version": b"2023-06-01"}
    assert dialect_of(b"/v1/chat/completions", {}) is Dialect.CHAT
    assert dialect_of(b"/v1/chat/completions", version) is Dialect.CHAT
    assert dialect_of(b"/v1/responses/x", {}) is Dialect.RESPONSES
    assert dialect_of(b"/v1/messages/batches", {}) is Dialect.ANTHROPIC
    assert dialect_of(b"/v1/models", version) is Dialect.ANTHROPIC
    assert dialect_of(b"/nowhere", {}) is Dialect.OPENAI
    assert [dialect_of_wire(wire) for wire in Wire] == [
        Dialect.CHAT, Dialect.RESPONSES, Dialect.OPENAI, Dialect.ANTHROPIC, Dialect.ANTHROPIC,
        Dialect.OPENAI,
    ]  # fmt: skip


class Endpoint:
    """Answers every call of an SDK with one refusal, in memory, and counts the calls."""

    def __init__(self, dialect, refusal):
        self.reply = answer(dialect, refusal, "req_1", now=NOW)
        self.calls = 0

    def __call__(self, _):
        self.calls += 1
        return httpx2.Response(
            self.reply.status, headers=self.reply.headers, content=self.reply.body
        )

    def openai(self):
        client = httpx2.Client(transport=httpx2.MockTransport(self))
        return openai.OpenAI(api_key="k", base_url="http://gate/v1", http_client=client)

    def anthropic(self):
        client = httpx2.Client(transport=httpx2.MockTransport(self))
        return anthropic.Anthropic(api_key="k", base_url="http://gate", http_client=client)


SDK_REASONS = {
    Reason.POLICY_DENIED: ("PermissionDeniedError", "BadRequestError"),
    Reason.STEP_UP_REQUIRED: ("PermissionDeniedError", "BadRequestError"),
    Reason.MODEL_NOT_FOUND: ("NotFoundError", "NotFoundError"),
    Reason.CREDENTIAL_INVALID: ("AuthenticationError", "AuthenticationError"),
    Reason.REQUEST_INVALID: ("BadRequestError", "BadRequestError"),
    Reason.REQUEST_TIMEOUT: ("APIStatusError", "APIStatusError"),
    Reason.LOG_UNAVAILABLE: ("InternalServerError", "InternalServerError"),
    Reason.LIMIT_EXCEEDED: ("RateLimitError", "RateLimitError"),
}


@pytest.mark.parametrize("reason", SDK_REASONS)
def test_k39_the_sdks_call_once_and_raise(reason):
    refusal = Refusal(reason, "Do this instead.", retry_after_s=3600.0)
    other, responses = SDK_REASONS[reason]

    chat = Endpoint(Dialect.CHAT, refusal)
    with pytest.raises(getattr(openai, other)) as caught:
        chat.openai().chat.completions.create(model="m", messages=[])
    assert caught.value.request_id == "req_1"

    codex = Endpoint(Dialect.RESPONSES, refusal)
    with pytest.raises(getattr(openai, responses)):
        codex.openai().responses.create(model="m", input="hi")

    claude = Endpoint(Dialect.ANTHROPIC, refusal)
    with pytest.raises(getattr(anthropic, other)) as caught:
        claude.anthropic().messages.create(model="m", max_tokens=1, messages=[])
    assert caught.value.request_id == "req_1"
    assert (chat.calls, codex.calls, claude.calls) == (1, 1, 1)
    if reason is not Reason.MODEL_NOT_FOUND:
        assert "Do this instead." in str(caught.value)
