"""How the exporters do, from what they keep: their cursors, the accounts that they write, and the
heads of the logs. Read from disk, so it is told of one that hangs or died as well.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping
from contextlib import suppress

from msgspec import Struct

from gateway.audit.stream import Cursor, decode_account, decode_cursor
from gateway.settings import Exporter
from gateway.state import StateDirectory

__all__ = ["ExporterReport", "exporter_problems", "exporter_reports", "known_exporters"]

SILENT_S = 15.0
"""An exporter tells how it does twice a second; one that has not for so long hangs or is gone."""
LAGGING_S = 60.0
"""A lag to act on, beyond what an archive's pieces wait for."""


class ExporterReport(Struct, frozen=True):
    """One exporter.

    ``lag_records`` are durable and have not arrived. ``lag_seconds`` is since when that is so: all
    that was durable before has arrived; ``None`` where it never told. ``heard_s_ago`` is the age
    of its last word.
    """

    name: str
    kind: str
    lag_records: int
    lag_seconds: float | None
    lag_by_log: dict[str, int]
    heard_s_ago: float | None = None
    sent: int = 0
    replaced: int = 0
    last_replaced: str = ""
    failures: int = 0
    last_error: str = ""
    last_error_at: float = 0.0
    fault: str = ""
    """Why its files cannot be read."""


def known_exporters(state: StateDirectory) -> list[str]:
    """The names of those that have ever run here."""
    if not state.exporters.is_dir():
        return []
    return sorted({path.stem for path in state.exporters.iterdir() if path.suffix in _KEPT})


_KEPT = (".json", ".cursor")


def exporter_reports(state: StateDirectory, names: Iterable[str]) -> list[ExporterReport]:
    """How these exporters do.

    Raises:
        OSError: a file cannot be read, though it is there.
    """
    sizes = _sizes(state)
    return [_report(state, name, sizes, time.time()) for name in names]


def _sizes(state: StateDirectory) -> dict[str, int]:
    """How many records are durable in each log: the second line of its head's note."""
    found: dict[str, int] = {}
    heads = state.root / "heads"
    for path in sorted(heads.iterdir()) if heads.is_dir() else ():
        lines = path.read_bytes().split(b"\n")
        if len(lines) > 1 and lines[1].isdigit():
            found[path.name] = int(lines[1])
    return found


def _report(
    state: StateDirectory, name: str, sizes: Mapping[str, int], now: float
) -> ExporterReport:
    cursor, fault = Cursor({}), ""
    path = state.exporter_cursor(name)
    try:
        with suppress(FileNotFoundError):
            cursor = decode_cursor(path.read_bytes())
    except ValueError as error:
        fault = f"{path}: {error}"
    lags = {
        shard: max(0, size - cursor.logs[shard].next if shard in cursor.logs else size)
        for shard, size in sizes.items()
    }
    lag = sum(lags.values())
    account_file = state.exporter_account(name)
    try:
        heard = now - account_file.stat().st_mtime
        account = decode_account(account_file.read_bytes())
    except (FileNotFoundError, ValueError):
        return ExporterReport(name, "", lag, None if lag else 0.0, lags, fault=fault)
    return ExporterReport(
        name=name,
        kind=account.kind,
        lag_records=lag,
        lag_seconds=_since(account.through, now) if lag else 0.0,
        lag_by_log=lags,
        heard_s_ago=max(0.0, round(heard, 1)),
        sent=account.sent,
        replaced=account.replaced,
        last_replaced=account.last_replaced,
        failures=account.failures,
        last_error=account.last_error,
        last_error_at=account.last_error_at,
        fault=fault,
    )


def _since(through: float, now: float) -> float | None:
    return max(0.0, round(now - through, 1)) if through else None


def exporter_problems(
    reports: Iterable[ExporterReport], configured: Mapping[str, Exporter], started: float
) -> list[dict[str, str]]:
    """What is wrong, in the words of ``status``.

    Args:
        reports: of those configured.
        configured: by name.
        started: when the gateway did, Unix seconds: until they have had the time, they are silent.
    """
    found = []
    for report in reports:
        what = _wrong(report, configured[report.name], started)
        if what:
            waiting = f"{report.lag_records} records wait"
            if report.lag_seconds:
                waiting += f", for {report.lag_seconds:.0f} s"
            found.append(
                {
                    "what": f"the exporter {report.name} {what}; {waiting}",
                    "reaches": f"readers of {configured[report.name].url}; no caller, and no "
                    "record is lost",
                    "do": "see the runbook 'an exporter lags', and its lines in the gateway's log",
                }
            )
    return found


def _wrong(report: ExporterReport, exporter: Exporter, started: float) -> str:
    if report.fault:
        return f"does not run: {report.fault}"
    if report.failures:
        return f"fails, {report.failures} times in a row: {report.last_error}"
    silent = report.heard_s_ago is None or report.heard_s_ago > SILENT_S
    if silent and time.time() - started > SILENT_S:
        return "does not run, or hangs"
    patience = LAGGING_S + (exporter.piece_s if exporter.kind == "s3" else 0)
    if (report.lag_seconds or 0.0) > patience:
        return "lags"
    return ""
