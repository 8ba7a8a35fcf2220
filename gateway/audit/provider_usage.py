"""A provider's own report of its calls, one a line: CSV with a header, or NDJSON. Pure.

The report comes from elsewhere, so nothing of it is trusted: every line is read or named with what
is wrong with it, and a report with one wrong line gives no rows at all.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from functools import partial
from itertools import chain
from typing import Any, Final, NamedTuple

import msgspec

from gateway.core.clock import MOMENTS

__all__ = ["COLUMNS", "MAX_LINE", "MAX_PROBLEMS", "Row", "UsageRefused", "read_usage"]

COLUMNS: Final[Mapping[str, Sequence[str]]] = {
    "request_id": ("request_id", "id"),
    "time": ("time", "timestamp", "created_at"),
    "model": ("model",),
    "input_tokens": ("input_tokens", "prompt_tokens"),
    "output_tokens": ("output_tokens", "completion_tokens"),
    "status": ("status",),
}
"""Our names, and the providers' names that are known; the first that is there counts."""
MAX_LINE: Final = 1 << 20
"""Bytes of one line; no call's usage is longer."""
MAX_PROBLEMS: Final = 20
"""Malformed lines that are named; the rest are counted."""

_CACHED: Final = ("cache_read_input_tokens", "cache_creation_input_tokens")
"""On the Messages wire ``input_tokens`` is without these; a record's figure is all input."""
_MAX_ID: Final = 128
"""What the gateway keeps of an endpoint's request id."""
_BOM: Final = "\N{ZERO WIDTH NO-BREAK SPACE}"
_GZIP: Final = b"\x1f\x8b"
_SECONDS: Final = re.compile(r"(\d{9,11})(?:\.(\d{1,9})\d*)?")
_RFC3339: Final = re.compile(r"\d{4}-\d\d-\d\d[Tt ]\d\d:\d\d.*", re.DOTALL)
_TOKENS: Final = re.compile(r"[0-9]{1,15}")
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_SHOWN: Final = 40
"""Characters of a wrong value that a problem quotes."""


class Row(NamedTuple):
    """One call as the provider tells it. What it does not tell is empty or ``None``; ``time`` is
    in nanoseconds since the epoch."""

    line: int
    id: str
    time: int | None = None
    model: str = ""
    input_tokens: int | None = None
    output_tokens: int | None = None
    status: str = ""


class UsageRefused(ValueError):
    """The report has malformed lines.

    Args:
        problems: line, what is wrong with it, and how to mend it; ``MAX_PROBLEMS`` at most.
        more: how many further problems there are.
    """

    def __init__(self, problems: Sequence[str], more: int) -> None:
        super().__init__("; ".join(problems))
        self.problems, self.more = tuple(problems), more


class _Wrong(Exception):
    """What is wrong with a line, and how to mend it."""


def read_usage(lines: Iterable[bytes], columns: Mapping[str, str] | None = None) -> list[Row]:
    """The rows of a report, in its order.

    Args:
        lines: as they stand in the file, with their ends; one longer than ``MAX_LINE`` ends the
            reading, so the caller need not read further than that.
        columns: the provider's name for any of ``COLUMNS``; with dots, one inside another object.

    Raises:
        UsageRefused: with every malformed line.
    """
    problems = _Problems()
    texts = _texts(lines, problems)
    first = next((each for each in texts if each[1].strip()), None)
    if first is None:
        if not problems.told:
            problems.add(1, "the file is empty; write a header line, or one JSON object a line")
    elif first[1].lstrip().startswith("["):
        problems.add(first[0], "a JSON array; write one object a line, as `jq -c '.[]'` does")
    else:
        read = _ndjson if first[1].lstrip().startswith("{") else _csv
        rows = list(read(chain([first], texts), dict(columns or {}), problems))
    if problems.told:
        raise UsageRefused(problems.told, problems.more)
    return rows


@dataclass(slots=True)
class _Problems:
    told: list[str] = field(default_factory=list)
    more: int = 0

    def add(self, line: int, what: str) -> None:
        if len(self.told) < MAX_PROBLEMS:
            self.told.append(f"line {line}: {what}")
        else:
            self.more += 1


def _texts(lines: Iterable[bytes], problems: _Problems) -> Iterator[tuple[int, str]]:
    """Numbered lines as text; bytes that are not UTF-8 become surrogates, which ``_whole`` sees."""
    for number, line in enumerate(lines, 1):
        if number == 1 and line.startswith(_GZIP):
            problems.add(1, "the file is compressed; give what `gunzip` makes of it")
            return
        if len(line) > MAX_LINE:
            problems.add(number, f"longer than {MAX_LINE} bytes; write one call a line")
            return
        text = line.decode("utf-8", "surrogateescape")
        yield number, text.removeprefix(_BOM) if number == 1 else text


def _ndjson(
    lines: Iterable[tuple[int, str]], columns: dict[str, str], problems: _Problems
) -> Iterator[Row]:
    unseen = set(columns)
    for number, text in lines:
        if not text.strip():
            continue
        try:
            try:
                _whole(text)
                call = msgspec.json.decode(text)
            except (msgspec.DecodeError, RecursionError):
                raise _Wrong("not JSON; write one object a line") from None
            if not isinstance(call, dict):
                raise _Wrong("not a JSON object; write one object a line")  # noqa: TRY301
            told = {
                ours: next((name for name in names if _walk(call, name) is not None), "")
                for ours, names in _named(columns).items()
            }
            unseen -= {ours for ours, name in told.items() if name}
            yield _row(number, told, partial(_walk, call))
        except _Wrong as error:
            problems.add(number, str(error))
    for ours in sorted(unseen):
        what = f"neither this nor any other line has {_shown(columns[ours])}"
        problems.add(1, f"{what}; name yours by --column {ours}=NAME")


def _csv(
    lines: Iterable[tuple[int, str]], columns: dict[str, str], problems: _Problems
) -> Iterator[Row]:
    header: list[str] = []
    told: dict[str, str] = {}
    for number, cells in _records(lines, problems):
        try:
            _whole("".join(cells))
            if not told:
                header = [cell.strip() for cell in cells]
                told = _header(header, columns)
                continue
            if len(cells) != len(header):
                raise _Wrong(  # noqa: TRY301
                    f"{len(cells)} fields where the header has {len(header)}; "
                    "put quotes around a field with commas"
                )
            yield _row(number, told, dict(zip(header, cells, strict=True)).get)
        except _Wrong as error:
            problems.add(number, str(error))
            if not told:  # without a header no line can be read
                return


def _records(
    lines: Iterable[tuple[int, str]], problems: _Problems
) -> Iterator[tuple[int, list[str]]]:
    """The cells of each record, and the line that it begins on; a quoted cell may hold lines."""
    start, begun = 0, False

    def texts() -> Iterator[str]:
        nonlocal start
        for number, text in lines:
            start = start or number
            yield text

    reader = csv.reader(texts(), strict=True)
    while True:
        start = 0
        try:
            cells = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            problems.add(start, f"not CSV: {error}; double the quotes inside quoted fields")
            if not begun:
                return
            continue
        if cells:
            begun = True
            yield start, cells


def _header(header: Sequence[str], columns: dict[str, str]) -> dict[str, str]:
    """The header's name for each of ours; empty where there is none."""
    there = ", ".join(_shown(name) for name in header[:20])
    told = {}
    for ours, names in _named(columns).items():
        found = [name for name in names if name in header]
        if not found and (ours == "request_id" or ours in columns):
            raise _Wrong(
                f"no column {' or '.join(_shown(name) for name in names)}; "
                f"there are: {there}; name yours by --column {ours}=NAME"
            )
        told[ours] = found[0] if found else ""
        if found and header.count(found[0]) > 1:
            raise _Wrong(f"two columns are named {_shown(found[0])}; leave one of them out")
    return told


def _named(columns: Mapping[str, str]) -> dict[str, Sequence[str]]:
    return {ours: (columns[ours],) if ours in columns else names for ours, names in COLUMNS.items()}


def _walk(call: Mapping[str, Any], name: str) -> Any:
    """A field, or one inside others: ``usage.input_tokens``."""
    value: Any = call
    for part in (name,) if name in call else name.split("."):
        value = value.get(part) if isinstance(value, dict) else None
    return value


def _row(line: int, told: Mapping[str, str], cell: Callable[[str], Any]) -> Row:
    def value(ours: str) -> Any:
        return cell(told[ours]) if told[ours] else None

    request_id = _text(told["request_id"], value("request_id"))
    if not request_id:
        raise _Wrong("no request id; every call has one, else name its field by --column")
    tokens = _count(told["input_tokens"], value("input_tokens"))
    if tokens is not None and told["input_tokens"] == "input_tokens":
        tokens += sum(_count(name, cell(name)) or 0 for name in _CACHED)
    return Row(
        line=line,
        id=request_id[:_MAX_ID],
        time=_time(told["time"], value("time")),
        model=_text(told["model"], value("model")),
        input_tokens=tokens,
        output_tokens=_count(told["output_tokens"], value("output_tokens")),
        status=_text(told["status"], value("status")),
    )


def _whole(text: str) -> None:
    try:
        text.encode()
    except UnicodeEncodeError:
        raise _Wrong("not UTF-8; write the file in UTF-8") from None


def _text(name: str, value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, bool) or not isinstance(value, str | int):
        raise _Wrong(f"{_shown(name)} is {_shown(value)}; write a text")
    return str(value).strip()


def _count(name: str, value: Any) -> int | None:
    text = "" if value is None else str(value).strip()
    if not text:
        return None
    if _TOKENS.fullmatch(text) is None:
        raise _Wrong(f"{_shown(name)} is {_shown(value)}; write a whole number, as 1234")
    return int(text)


def _time(name: str, value: Any) -> int | None:
    """Nanoseconds since the epoch, within ``MOMENTS``; a time without a zone is UTC."""
    text = "" if value is None else str(value).strip()
    if not text:
        return None
    try:
        found = _nanoseconds(text)
    except (ValueError, OverflowError):
        found = -1
    if found not in MOMENTS:
        raise _Wrong(
            f"{_shown(name)} is {_shown(value)}; write 2026-11-25T08:30:00Z, or Unix seconds"
        )
    return found


def _nanoseconds(text: str) -> int:
    seconds = _SECONDS.fullmatch(text)
    if seconds is not None:
        return int(seconds[1]) * 1_000_000_000 + int((seconds[2] or "").ljust(9, "0"))
    found = datetime.fromisoformat(text if _RFC3339.fullmatch(text) else "")
    found = found.replace(tzinfo=UTC) if found.tzinfo is None else found
    return (found - _EPOCH) // timedelta(microseconds=1) * 1000


def _shown(value: Any) -> str:
    """A value as a problem quotes it: short, and nothing that a terminal would obey."""
    text = str(value)
    return ascii(text if len(text) <= _SHOWN else text[: _SHOWN - 1] + "…")
