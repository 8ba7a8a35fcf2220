"""Logs hold no secret, whichever way it tries; and a header that tells where the time went."""

from __future__ import annotations

import asyncio
import io
import json
import logging
from collections.abc import Iterator
from typing import Any

import pytest
import structlog
from hypothesis import given
from hypothesis import strategies as st

from gateway.core.protocols import LimiterUnavailable
from gateway.core.reasons import Reason
from gateway.core.refusal import Refusal, Refused
from gateway.telemetry.logs import REDACTED, Redactor, configure
from gateway.telemetry.timing import server_timing

PROVIDER = 'prov"\\ider-kéy-quxz'  # characters that JSON escapes
CANARIES = (
    "sk-sg-CANARY0123456789abcdef",
    "sk-ant-api03-CANARY_0123-456",
    "eyJhbGciOiJFUzI1NiJ9.eyJDQU5BUlkiOjF9.c2lnbmF0dXJlQ0FOQVJZ",
    "opaque-CANARY-token+/==",
)


class Lines:
    def __init__(self) -> None:
        self.stream = io.StringIO()

    @property
    def text(self) -> str:
        return self.stream.getvalue()

    @property
    def events(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.text.splitlines()]


@pytest.fixture
def lines() -> Iterator[Lines]:
    root = logging.getLogger()
    before = root.handlers, root.level
    written = Lines()
    configure("INFO", written.stream, [PROVIDER])
    yield written
    root.handlers, root.level = before
    structlog.reset_defaults()
    structlog.contextvars.clear_contextvars()
    for name in ("uvicorn", "uvicorn.error", "uvicorn.access"):
        logging.getLogger(name).disabled = False


def log() -> Any:
    return structlog.stdlib.get_logger("gateway.test")


def test_a_line_is_json_with_the_request_id_its_caller_bound(lines: Lines) -> None:
    with structlog.contextvars.bound_contextvars(request_id="req_1"):
        log().info("policy.activated", revision="abc")
    log().debug("not shown")
    (event,) = lines.events
    assert event["event"] == "policy.activated"
    assert event["request_id"] == "req_1"
    assert (event["level"], event["logger"], event["revision"]) == ("info", "gateway.test", "abc")
    assert event["time"].endswith("Z")


@pytest.mark.parametrize("secret", [*CANARIES, PROVIDER])
def test_canary_secrets_appear_in_no_line(lines: Lines, secret: str) -> None:
    sent = f"Bearer {secret}" if secret.startswith("opaque") else secret
    url = f"redis://user:{secret.replace('/', '').replace('@', '')}@host/0"
    log().info(f"got {sent}", header=sent, nested={"deep": [sent, {sent: sent}]}, raw=sent.encode())
    log().info("url", url=url)
    logging.getLogger("library").warning("failed with %s", sent)
    logging.getLogger("uvicorn.error").error("boom %s", sent)
    logging.getLogger("uvicorn.access").info("GET /%s", sent)
    for error in (ValueError(sent), OSError(5, sent), LimiterUnavailable(sent), KeyError(sent)):
        try:
            raise error  # noqa: TRY301 - what is tested
        except Exception:
            log().exception("step failed")
            logging.getLogger("library").exception("it failed")
    assert "CANARY" not in lines.text
    assert "quxz" not in lines.text
    assert "c2lnbmF0dXJl" not in lines.text
    assert len(lines.events) == 12


def test_a_callers_words_do_not_come_with_an_exception(lines: Lines) -> None:
    def parse() -> None:
        try:
            json.loads("{words of a prompt")
        except ValueError as error:
            raise RuntimeError("words of a prompt") from error

    try:
        parse()
    except RuntimeError:
        log().exception("relay failed")
    (event,) = lines.events
    assert event["error"] == "RuntimeError from JSONDecodeError"
    assert any("test_telemetry_logs" in frame and "parse" in frame for frame in event["at"])
    assert "words of" not in lines.text


@pytest.mark.parametrize(
    ("error", "detail"),
    [
        (LimiterUnavailable("no answer within 0.1 s"), "no answer within 0.1 s"),
        (Refused(Refusal(Reason.LIMIT_EXCEEDED, "words of a prompt")), "limit_exceeded"),
        (ConnectionResetError(104, "Connection reset by peer"), "Connection reset by peer"),
        (TimeoutError("words of a prompt"), None),
    ],
)
def test_expected_errors_come_without_frames(
    lines: Lines, error: Exception, detail: str | None
) -> None:
    try:
        raise error
    except type(error) as caught:
        log().warning("upstream.failed", exc_info=caught)
    (event,) = lines.events
    assert event["error"] == type(error).__name__
    assert event.get("detail") == detail
    assert "at" not in event
    assert "Traceback" not in lines.text
    assert "words of" not in lines.text


async def test_what_asyncio_says_of_a_lost_task_holds_no_repr(lines: Lines) -> None:
    async def fail() -> None:
        raise ValueError("words of a prompt")

    task = asyncio.get_running_loop().create_task(fail())
    await asyncio.wait((task,))
    asyncio.get_running_loop().call_exception_handler(
        {"message": "Task exception was never retrieved", "exception": task.exception(), "t": task}
    )
    (event,) = lines.events
    assert event["event"] == "Task exception was never retrieved"
    assert event["error"] == "ValueError"
    assert "words of" not in lines.text


def test_a_malformed_record_is_not_shown_with_its_arguments(
    lines: Lines, capsys: pytest.CaptureFixture[str]
) -> None:
    record = logging.LogRecord("library", logging.ERROR, "f.py", 1, "%d", (CANARIES[3],), None)
    logging.getLogger().handlers[0].handle(record)
    assert lines.events == [
        {"level": "error", "logger": "library", "event": "a log record was malformed"}
    ]
    assert capsys.readouterr() == ("", "")


def test_values_that_are_not_json_are_told_by_type(lines: Lines) -> None:
    log().info("x", value=object(), body=b"words of a prompt")
    (event,) = lines.events
    assert (event["value"], event["body"]) == ("<object>", "<bytes>")


def test_configured_again_replaces_and_routes_uvicorn(lines: Lines) -> None:
    again = io.StringIO()
    configure("WARNING", again)
    logging.getLogger("uvicorn.error").warning("started")
    log().info("not shown")
    assert lines.text == ""
    assert json.loads(again.getvalue())["logger"] == "uvicorn.error"
    assert len(again.getvalue().splitlines()) == 1


def test_a_secret_too_short_to_take_out_is_refused_without_showing_it() -> None:
    with pytest.raises(ValueError, match="shorter") as caught:
        Redactor(["hunter2"])
    assert "hunter2" not in str(caught.value)
    with pytest.raises(ValueError, match="level"):
        configure("LOUD", io.StringIO())


def test_ordinary_words_stay() -> None:
    text = '{"event": "the bearer of a task-sk-list asked https://host/path?a=b", "n": 1}'
    assert Redactor(["some-secret-value"])(text) == text


@given(
    secret=st.text(st.characters(codec="utf-8"), min_size=8, max_size=30),
    around=st.text(st.characters(codec="utf-8"), max_size=20),
)
def test_an_exact_secret_never_survives_rendering(secret: str, around: str) -> None:
    redact = Redactor([secret])
    for ascii_only in (True, False):
        line = json.dumps({"k": around + secret + around}, ensure_ascii=ascii_only)
        shown = json.dumps(secret, ensure_ascii=ascii_only)[1:-1]
        assert shown not in redact(line).replace(REDACTED, "")


def test_server_timing() -> None:
    assert server_timing([("identify", 0.000_123), ("decide", 0.25)]) == (
        "identify;dur=0.12, decide;dur=250.00"
    )
    assert server_timing([("clock", -1.0)]) == "clock;dur=0.00"
    assert server_timing([]) == ""
