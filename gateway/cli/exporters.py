"""``audit exporters``: how far the record has come elsewhere."""

from __future__ import annotations

from pathlib import Path

import msgspec

from gateway.cli.records import safe
from gateway.cli.shards import explained
from gateway.cli.terminal import DIR, EXIT_NO, AsJson, Directory, say, show_json, table
from gateway.control.exporters import (
    SILENT_S,
    ExporterReport,
    exporter_reports,
    known_exporters,
)
from gateway.core.clock import timestamp
from gateway.state import StateDirectory

__all__ = ["exporters"]


def exporters(directory: Directory = DIR, json: AsJson = False) -> None:
    """Show what waits for each exporter, and why.

    Ends with 1 where one fails, hangs or does not run.
    """
    state = StateDirectory(Path(directory))
    with explained():
        found = exporter_reports(state, known_exporters(state))
    if json:
        show_json([msgspec.structs.asdict(report) | {"works": _works(report)} for report in found])
    elif not found:
        say("No exporter has run here. They are set up under `exporters` in the configuration.")
    else:
        say(
            table(
                ["exporter", "kind", "works", "waiting", "for", "sent", "replaced"],
                [
                    [
                        report.name,
                        report.kind or "-",
                        "yes" if _works(report) else "NO",
                        f"{report.lag_records:,}",
                        "-" if report.lag_seconds is None else f"{report.lag_seconds:.0f} s",
                        f"{report.sent:,}",
                        report.replaced,
                    ]
                    for report in found
                ],
            )
        )
        for report in found:
            _tell(report)
    if not all(_works(report) for report in found):
        raise SystemExit(EXIT_NO)


def _works(report: ExporterReport) -> bool:
    heard = report.heard_s_ago is not None and report.heard_s_ago <= SILENT_S
    return heard and not report.failures and not report.fault


def _tell(report: ExporterReport) -> None:
    if report.fault:
        say(f"{report.name}: {safe(report.fault)}")
    if report.heard_s_ago is None or report.heard_s_ago > SILENT_S:
        ago = "never" if report.heard_s_ago is None else f"{report.heard_s_ago:.0f} s ago"
        say(f"{report.name}: does not run, or hangs; last heard of {ago}")
    if report.last_error:
        when = timestamp(int(report.last_error_at))
        say(f"{report.name}: last error, at {when}: {safe(report.last_error)}")
    if report.last_replaced:
        say(f"{report.name}: last replaced by a notice: {safe(report.last_replaced)}")
