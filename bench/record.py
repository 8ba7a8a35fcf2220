"""What finding and proving costs on a log of a million records: ``python -m bench.record``.

Writes the log (once; ``--dir`` keeps it), makes the index anew, asks each question cold and then
warm in a fresh search, and verifies the whole log. Every hit counts its proof.
"""

import argparse
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from gateway.audit.index import Index, Log
from gateway.audit.note import SigningKey
from gateway.audit.search import Query, Search
from gateway.audit.verify import parse_vkey, verify_directory
from tests.support.traffic import START_NS, Wall, calls, write

KEY = SigningKey("example.org/bench/data-0", bytes(32))
SHARD = "data-0"
STEP_NS = 2_000_000_000
"""Between two looks at the clock: a million records lie over three weeks."""
PART = 20_000
LOOK_UP_MS, COUNT_MS, TEXT_MS, VERIFIED_A_SECOND = 50, 500, 500, 50_000

DENY = ("effect", "deny")
WEEK_NS = 7 * 86_400_000_000_000
QUESTIONS: list[tuple[str, int, Callable[[Search], Any]]] = [
    ("by subject, latest 50", LOOK_UP_MS, lambda ask: hits(ask, ("subject", "member-12"))),
    ("by request id", LOOK_UP_MS, lambda ask: ask.hits(Query(name=f"req_{7:024x}"))),
    (
        "by model and reason",
        LOOK_UP_MS,
        lambda ask: hits(ask, ("model", "mythos-5"), ("reason", "vetting_expired")),
    ),
    (
        "three filters, few match",
        COUNT_MS,
        lambda ask: hits(
            ask, ("model", "mythos-5"), ("status", "client_abort"), ("organisation", "org-3")
        ),
    ),
    ("models by effect", COUNT_MS, lambda ask: ask.counts("model", Query())),
    ("top denied, all time", COUNT_MS, lambda ask: ask.counts("subject", Query(terms=(DENY,)))),
    (
        "top denied, a week to the second",
        COUNT_MS,
        lambda ask: ask.counts(
            "subject", Query(terms=(DENY,), since=START_NS + 10**12 + 7, until=START_NS + WEEK_NS)
        ),
    ),
    ("text, a rare word", TEXT_MS, lambda ask: ask.hits(Query(text="member-997 vetting"))),
    ("text, common words", TEXT_MS, lambda ask: ask.hits(Query(text="messages fable-5"))),
    ("text, the beginning of a word", TEXT_MS, lambda ask: ask.hits(Query(text="vett* mythos*"))),
]


def hits(search: Search, *terms: tuple[str, str]) -> Any:
    return search.hits(Query(terms=terms))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--records", type=int, default=1_000_000)
    parser.add_argument("--dir", type=Path)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        directory = options.dir or Path(temporary)
        log = Log(directory / SHARD, [KEY.verifier])
        if not log.directory.exists():
            write_log(log.directory, options.records)
        measure(directory, {SHARD: log})


def write_log(directory: Path, records: int) -> None:
    directory.parent.mkdir(parents=True, exist_ok=True)
    count = records * 5 // 9  # four calls of five leave two records
    for first in range(0, count, PART):
        wall = Wall(STEP_NS, START_NS + first * STEP_NS * 2)
        write(directory, KEY, calls(min(PART, count - first), seed=first, first=first), wall=wall)
        print(f"\rwriting {first + PART:,} of {count:,} calls", end="", flush=True)
    print()


def measure(directory: Path, logs: dict[str, Log]) -> None:
    path = directory / "index.sqlite"
    path.unlink(missing_ok=True)
    begun = time.perf_counter()
    index = Index(path, logs)
    added = index.catch_up(
        lambda done, total: print(f"\rindexing {done / total:4.0%}", end="", flush=True)
    )
    seconds = time.perf_counter() - begun
    stored = sum(file.stat().st_size for file in logs[SHARD].directory.glob("*.seg"))
    print(
        f"\r{added:,} records in the index after {seconds:.0f} s, {added / seconds:,.0f} a second"
    )
    print(f"bytes a record: log {stored / added:.0f}, index {path.stat().st_size / added:.0f}")
    print(f"\n{'question':36}{'cold':>9}{'warm':>9}{'bound':>9}  ms   found")
    for name, bound, question in QUESTIONS:
        times = []
        index.close()
        index = Index(path, logs)
        for _ in range(2):
            begun = time.perf_counter()
            found = question(Search(index, logs))
            times.append((time.perf_counter() - begun) * 1000)
        late = "" if max(times) < bound else "  OVER"
        print(f"{name:36}{times[0]:9.1f}{times[1]:9.1f}{bound:9}  ms   {len(found)}{late}")
    index.close()
    begun = time.perf_counter()
    (report,) = verify_directory(directory, dict([parse_vkey(KEY.vkey)]), [])
    rate = report.size / (time.perf_counter() - begun)
    print(f"\nverified {report.size:,} records: {report.verdict}, {rate:,.0f} a second", end="")
    print(f" (bound {VERIFIED_A_SECOND:,})")


if __name__ == "__main__":
    main()
