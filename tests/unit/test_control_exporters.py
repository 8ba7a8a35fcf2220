"""How exporters do, as status tells it: from files, so of one that hangs or is gone as well."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from gateway.audit.stream import Account, Cursor, Mark
from gateway.control.exporters import (
    LAGGING_S,
    SILENT_S,
    exporter_problems,
    exporter_reports,
    known_exporters,
)
from gateway.settings import Exporter
from gateway.state import StateDirectory

SIEM = Exporter(kind="webhook", url="https://siem.example.com/in")
LONG_AGO = 0.0


@pytest.fixture
def state(tmp_path: Path) -> StateDirectory:
    made = StateDirectory(tmp_path)
    made.prepare()
    made.exporters.mkdir()
    for shard, size in (("control", 10), ("data-0", 100)):
        made.head(shard).write_bytes(f"sluicegate/{shard}\n{size}\nroot\n\n— sig\n".encode())
    return made


def kept(state: StateDirectory, account: Account, *, at: int = 100, silent_s: float = 0) -> None:
    cursor = Cursor({"control": Mark(10), "data-0": Mark(at)})
    state.exporter_cursor(account.name).write_bytes(cursor.encode())
    path = state.exporter_account(account.name)
    path.write_bytes(account.encode())
    told = time.time() - silent_s
    os.utime(path, (told, told))


def problems(state: StateDirectory, exporter: Exporter = SIEM) -> list[str]:
    configured = {"siem": exporter}
    found = exporter_problems(exporter_reports(state, configured), configured, LONG_AGO)
    return [each["what"] for each in found]


def test_control_one_that_has_sent_all_is_no_problem(state: StateDirectory) -> None:
    kept(state, Account("siem", "webhook", through=time.time(), sent=5))
    (report,) = exporter_reports(state, ["siem"])
    assert (report.lag_records, report.lag_seconds, report.sent) == (0, 0.0, 5)
    assert report.lag_by_log == {"control": 0, "data-0": 0}
    assert problems(state) == []
    assert known_exporters(state) == ["siem"]


def test_a_lag_is_counted_in_records_and_in_seconds(state: StateDirectory) -> None:
    kept(state, Account("siem", "webhook", through=time.time() - 30), at=58)
    (report,) = exporter_reports(state, ["siem"])
    assert (report.lag_records, report.lag_by_log) == (42, {"control": 0, "data-0": 42})
    assert 29 < (report.lag_seconds or 0) < 40
    assert problems(state) == []


def test_what_is_wrong_is_told_in_words(state: StateDirectory) -> None:
    now = time.time()
    kept(state, Account("siem", "webhook", through=now - LAGGING_S - 5), at=58)
    assert problems(state) == ["the exporter siem lags; 42 records wait, for 65 s"]
    archive = Exporter(
        kind="s3", url="https://s3.example.com", bucket="record", region="eu", access_key="A",
        secret="0123456789abcdef", retention_days=1,
    )  # fmt: skip
    assert problems(state, archive) == []  # its pieces wait for as long
    failing = Account("siem", "webhook", through=now, failures=3, last_error="data-0: 503")
    kept(state, failing)
    assert problems(state)[0].startswith(
        "the exporter siem fails, 3 times in a row: data-0: 503; 0 records wait"
    )
    kept(state, Account("siem", "webhook", through=now), silent_s=SILENT_S + 5)
    assert problems(state) == ["the exporter siem does not run, or hangs; 0 records wait"]


def test_one_that_never_ran_has_everything_waiting(state: StateDirectory) -> None:
    (report,) = exporter_reports(state, ["siem"])
    assert (report.lag_records, report.lag_seconds, report.heard_s_ago) == (110, None, None)
    assert problems(state) == ["the exporter siem does not run, or hangs; 110 records wait"]
    configured = {"siem": SIEM}
    just_started = exporter_problems(exporter_reports(state, configured), configured, time.time())
    assert just_started == []


def test_a_cursor_that_is_none_is_a_fault_and_hides_no_other(state: StateDirectory) -> None:
    kept(state, Account("siem", "webhook", through=time.time()))
    kept(state, Account("other", "otlp", through=time.time()))
    state.exporter_cursor("siem").write_bytes(b"\x00")
    bad, good = exporter_reports(state, ["siem", "other"])
    assert "not a cursor" in bad.fault
    assert not good.fault
    assert "not a cursor" in problems(state)[0]


@pytest.mark.parametrize("head", [b"", b"torn", b"sluicegate/data-0\n12", b"a\nmany\n"])
def test_a_head_that_is_torn_is_no_error(state: StateDirectory, head: bytes) -> None:
    state.head("data-0").write_bytes(head)
    (report,) = exporter_reports(state, ["siem"])
    assert report.lag_records in (10, 22)
