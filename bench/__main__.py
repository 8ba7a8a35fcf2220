"""What a call costs: ``make bench``. docs/performance.md says how to read the tables.

Every contender is measured in turn, and that again, so that a change of the machine's mood meets
all of them; the median of the repeats counts. Trust the ratios within one run.
"""

from __future__ import annotations

import argparse
import asyncio
import datetime as dt
import os
import statistics
import tempfile
import time
from collections import defaultdict
from pathlib import Path

import uvloop

from bench.contenders import LOAD_CORE, MEMBERS, Contender, contenders
from bench.load import ClosedLoop, Streams, Upstream, open_loop, request_bytes

PATH = "/v1/messages"
CONNECTIONS = 32
STREAMS = 200
CHUNK_PERIOD_S = 0.05
RATE = 200

Row = dict[str, list[float]]


async def whole_answers(contender: Contender, seconds: float, row: Row) -> None:
    """Closed loop; before the clock starts, each member has called once."""
    requests = [request_bytes(PATH, key, stream=False) for key in contender.keys]
    async with ClosedLoop(contender.port, requests, CONNECTIONS) as load:
        await load.until(len(requests))
        hits, misses = await contender.memo()
        answered, cpu, begun = load.answered, contender.cpu_s(), time.perf_counter()
        await load.run(seconds)
        answered, cpu = load.answered - answered, contender.cpu_s() - cpu
        elapsed = time.perf_counter() - begun
        now_hits, now_misses = await contender.memo()
    row["us"].append(cpu / answered * 1e6)
    row["rate"].append(answered / elapsed)
    row["core"].append(cpu / elapsed * 100)
    if contender.gate is not None:
        asked = now_hits - hits + now_misses - misses
        row["hits"].append((now_hits - hits) / asked * 100)


async def streams(contender: Contender, upstream: Upstream, seconds: float, row: Row) -> None:
    """All streams open, each with a chunk every ``CHUNK_PERIOD_S``."""
    requests = [request_bytes(PATH, key, stream=True) for key in contender.keys]
    before = contender.rss_kb()
    load = Streams(contender.port, requests, STREAMS)
    feeding = asyncio.create_task(upstream.feed(CHUNK_PERIOD_S))
    await load.open()
    await load.run(1)
    chunks, cpu, begun = load.chunks, contender.cpu_s(), time.perf_counter()
    await load.run(seconds)
    chunks, cpu = load.chunks - chunks, contender.cpu_s() - cpu
    elapsed = time.perf_counter() - begun
    row["chunk_us"].append(cpu / chunks * 1e6)
    row["chunks"].append(chunks / elapsed)
    if not row["kb"]:  # later repeats find memory that the first one left
        row["kb"].append((contender.rss_kb() - before) / STREAMS)
    feeding.cancel()
    await asyncio.gather(feeding, return_exceptions=True)
    await load.ended()


async def latency(contender: Contender, seconds: float, row: Row) -> None:
    """Calls at fixed instants; what is added to the endpoint's own answer time."""
    requests = [request_bytes(PATH, key, stream=False) for key in contender.keys]
    await open_loop(contender.port, requests, rate=RATE * 2, seconds=MEMBERS / RATE / 2)
    cpu = contender.cpu_s()
    found = sorted(await open_loop(contender.port, requests, rate=RATE, seconds=seconds))
    row["quiet_us"].append((contender.cpu_s() - cpu) / len(found) * 1e6)
    row["p50"].append(found[len(found) // 2] * 1000)
    row["p99"].append(found[len(found) * 99 // 100] * 1000)


def flush_ms(directory: Path) -> float:
    """How long this disk takes to make a small append durable; the median of 50."""
    times = []
    with (directory / "flush").open("ab", buffering=0) as file:
        for _ in range(50):
            file.write(b"x" * 700)
            begun = time.perf_counter()
            os.fdatasync(file.fileno())
            times.append(time.perf_counter() - begun)
    return statistics.median(times) * 1000


async def measure(options: argparse.Namespace) -> str:
    rows: dict[str, Row] = defaultdict(lambda: defaultdict(list))
    upstream = Upstream()
    with tempfile.TemporaryDirectory(prefix="sgbench-") as name:
        directory = Path(name)
        flush = flush_ms(directory)
        async with contenders(directory, await upstream.start(), set(options.only)) as found:
            for repeat in range(options.repeats):
                for contender in found:
                    print(f"repeat {repeat + 1}: {contender.name}", flush=True)
                    row = rows[contender.name]
                    await whole_answers(contender, options.seconds, row)
                    if not options.brief:
                        await streams(contender, upstream, options.seconds, row)
                        await latency(contender, options.seconds, row)
    return table(rows, options, flush)


def table(rows: dict[str, Row], options: argparse.Namespace, flush: float) -> str:
    """The medians, as Markdown."""
    medians = {
        name: defaultdict(
            lambda: float("nan"),
            {column: statistics.median(values) for column, values in row.items()},
        )
        for name, row in rows.items()
    }
    direct = medians.pop("direct")
    costs = {name: row["us"] for name, row in medians.items()}
    nginx, naive = (costs.get(name, float("nan")) for name in ("nginx", "naive"))
    found = (
        f"Median of {options.repeats} repeats of {options.seconds:g} s, {CONNECTIONS} connections, "
        f"{MEMBERS} members. A flush of this disk takes {flush:.1f} ms.\n\n"
        "| POST 1 KB | CPU µs/request | lowest to highest | / nginx | naive / it | req/s | core % "
        "| memo hits % |\n|---|--:|--:|--:|--:|--:|--:|--:|\n"
    )
    for name, row in medians.items():
        each = rows[name]["us"]
        found += (
            f"| {name} | {row['us']:.0f} | {min(each):.0f} to {max(each):.0f} "
            f"| {row['us'] / nginx:.1f} | {naive / row['us']:.1f} | {row['rate']:.0f} "
            f"| {row['core']:.0f} | {row['hits']:.1f} |\n"
        )
    if not options.brief:
        found += (
            f"\n| | CPU µs/chunk, {STREAMS} streams | chunks/s | KB a stream | CPU µs/request at "
            f"{RATE}/s | added p50 ms | added p99 ms |\n|---|--:|--:|--:|--:|--:|--:|\n"
        )
        for name, row in medians.items():
            found += (
                f"| {name} | {row['chunk_us']:.0f} | {row['chunks']:.0f} | {row['kb']:.0f} "
                f"| {row['quiet_us']:.0f} | {row['p50'] - direct['p50']:.2f} "
                f"| {row['p99'] - direct['p99']:.2f} |\n"
            )
    return found.replace("nan", "-")


def main() -> None:
    parser = argparse.ArgumentParser(prog="make bench ARGS=…", description=__doc__)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=5, help="each measurement")
    parser.add_argument("--brief", action="store_true", help="whole answers only")
    parser.add_argument("--save", action="store_true", help="keep the table in bench/results/")
    parser.add_argument("only", nargs="*", help="contenders, such as nginx or sluicegate; all")
    options = parser.parse_args()
    if len(os.sched_getaffinity(0)) < 2:
        parser.error("two cores are needed: one for the process under test, one for the load")
    os.sched_setaffinity(0, {LOAD_CORE})
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        report = runner.run(measure(options))
    print("\n" + report)
    if options.save:
        results = Path(__file__).parent / "results"
        results.mkdir(exist_ok=True)
        stamp = dt.datetime.now(dt.UTC).strftime("%Y-%m-%dT%H%MZ")
        (results / f"{stamp}.md").write_text(report)


if __name__ == "__main__":
    main()
