"""Logs: one JSON object a line, structlog's and every library's, without a secret in it.

Guarantees: known secrets and everything that looks like one are taken out of the finished line,
whatever field or exception they came by. Of an exception come its type and where it was raised;
its message only where the gateway wrote it, since a foreign message may quote what a caller sent.
An expected failure (a refusal, a store or engine that did not answer, a lost connection) comes
without its frames. A library's message is cut to its first line, and uvicorn's access log is off:
requests are the audit log's subject.

Logging is one per process by its nature: ``configure`` sets it, again if called again.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import re
import sys
import traceback
from collections.abc import Callable, Iterable
from types import TracebackType
from typing import Any, TextIO, TypeAlias

import structlog
from structlog.typing import EventDict, WrappedLogger

from gateway.core.protocols import EngineUnavailable, LimiterUnavailable, LogUnavailable
from gateway.core.refusal import Refused

__all__ = ["REDACTED", "SHORTEST_SECRET", "Redactor", "configure"]

REDACTED = "[redacted]"
SHORTEST_SECRET = 8
"""Characters; a shorter one would be cut out of ordinary words."""

_LONGEST_MESSAGE = 300
_MOST_FRAMES = 12
_EXPECTED = (
    Refused,
    EngineUnavailable,
    LimiterUnavailable,
    LogUnavailable,
    OSError,  # TimeoutError and every lost connection among them
    asyncio.CancelledError,
)
# None of these can match a quotation mark or a backslash, so the line stays JSON.
_PATTERNS = (
    r"\bsk-[A-Za-z0-9_-]{6,}",  # the vendors' API keys and our own sk-sg-
    r"(?i:\b(?:bearer|basic|dpop)(?:\s|\\[tnr]|%20)+)[A-Za-z0-9._~+/=-]{8,}",
    r"\beyJ[A-Za-z0-9_-]+(?:\.[A-Za-z0-9_-]*)+",  # a JWT, from its header on
    r"(?<=://)[^\s\"\\/@]+@",  # the user and password of a URL
)

_ExcInfo: TypeAlias = (
    "tuple[type[BaseException], BaseException, TracebackType | None] | BaseException | bool | None"
)


class Redactor:
    """Takes secrets out of text.

    Args:
        secrets: exact values to take out wherever they stand, besides what looks like a secret.

    Raises:
        ValueError: one is shorter than ``SHORTEST_SECRET``; it is not in the message.
    """

    def __init__(self, secrets: Iterable[str] = ()) -> None:
        exact = set[str]()
        for secret in secrets:
            if len(secret) < SHORTEST_SECRET:
                raise ValueError(f"a secret is shorter than {SHORTEST_SECRET} characters")
            exact |= {
                secret,
                json.dumps(secret)[1:-1],
                json.dumps(secret, ensure_ascii=False)[1:-1],
            }
        longest_first = sorted(exact, key=len, reverse=True)
        self._pattern = re.compile("|".join([*map(re.escape, longest_first), *_PATTERNS]))

    def __call__(self, text: str) -> str:
        """``text`` with ``[redacted]`` in the place of each secret."""
        return self._pattern.sub(REDACTED, text)


def configure(level: str, stream: TextIO, secrets: Iterable[str] = ()) -> None:
    """Send all logs of this process to ``stream`` as JSON lines.

    Args:
        level: ``DEBUG``, ``INFO``, ``WARNING`` or ``ERROR``.
        stream: where the lines go, usually standard error or output.
        secrets: exact values that must never appear (provider keys, passwords, signing keys).

    Raises:
        ValueError: another level, or a secret too short to take out (see ``Redactor``).
    """
    redact = Redactor(secrets)
    to_json = structlog.processors.JSONRenderer(default=_type_only, ensure_ascii=False)

    def render(logger: WrappedLogger, method: str, event: EventDict) -> str:
        return redact(str(to_json(logger, method, event)))

    shared: list[Callable[[WrappedLogger, str, EventDict], EventDict]] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.stdlib.add_logger_name,
        structlog.processors.TimeStamper(fmt="iso", utc=True, key="time"),
        _exception,
    ]
    formatter = structlog.stdlib.ProcessorFormatter(
        foreign_pre_chain=[*shared, _first_line],
        processors=[
            structlog.stdlib.ProcessorFormatter.remove_processors_meta,
            render,
        ],
        keep_exc_info=False,
        keep_stack_info=False,
    )
    handler = _Handler(stream)
    handler.setFormatter(formatter)
    root = logging.getLogger()
    root.handlers = [handler]
    root.setLevel(level)
    for name in ("uvicorn", "uvicorn.error", "uvicorn.access"):
        logger = logging.getLogger(name)
        logger.handlers = []
        logger.propagate = True
        logger.setLevel(logging.NOTSET)
        logger.disabled = name == "uvicorn.access"
    structlog.configure(
        processors=[
            structlog.stdlib.filter_by_level,
            *shared,
            structlog.stdlib.ProcessorFormatter.wrap_for_formatter,
        ],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
        cache_logger_on_first_use=False,
    )


class _Handler(logging.StreamHandler[TextIO]):
    """Says that a record could not be written, where the standard one would show its arguments."""

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802 - logging's name
        line = {"level": "error", "logger": record.name, "event": "a log record was malformed"}
        with contextlib.suppress(OSError, ValueError):  # the stream may be closed
            self.stream.write(json.dumps(line) + "\n")


def _first_line(_logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
    """A library's message without what it quotes below (asyncio's futures, tracebacks)."""
    lines = str(event["event"]).splitlines() or [""]
    event["event"] = lines[0][:_LONGEST_MESSAGE]
    return event


def _exception(_logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
    """``exc_info`` as ``error`` (types, outermost first), ``detail`` and ``at`` (frames)."""
    error = _raised(event.pop("exc_info", None))
    event.pop("stack_info", None)
    if error is None:
        return event
    chain: list[BaseException] = []
    link: BaseException | None = error
    while link is not None and link not in chain:
        chain.append(link)
        link = link.__cause__ or (None if link.__suppress_context__ else link.__context__)
    event["error"] = " from ".join(type(link).__name__ for link in chain)
    if type(error).__module__.startswith("gateway."):
        event["detail"] = str(error)[:_LONGEST_MESSAGE]
    elif isinstance(error, OSError) and error.strerror:
        event["detail"] = error.strerror
    if not isinstance(error, _EXPECTED):
        event["at"] = [
            f"{frame.filename}:{frame.lineno} {frame.name}"
            for frame in traceback.extract_tb(error.__traceback__)[-_MOST_FRAMES:]
        ]
    return event


def _raised(exc_info: _ExcInfo) -> BaseException | None:
    if isinstance(exc_info, BaseException):
        return exc_info
    if isinstance(exc_info, tuple):
        return exc_info[1]
    if exc_info:
        return sys.exc_info()[1]
    return None


def _type_only(value: Any) -> str:
    """What JSON cannot hold is told by its type: a repr may hold anything."""
    return f"<{type(value).__name__}>"
