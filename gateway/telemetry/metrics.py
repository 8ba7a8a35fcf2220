"""What a worker counts, and how the control process shows it to Prometheus.

Guarantees: counting is integers in dictionaries (under a microsecond, no lock, no I/O); labels come
from closed sets, and a model is shown only under a name given to ``show_models``, all others as
``other``; whatever a caller does, a metric has at most ``MAX_SERIES`` series a worker. Each worker
hands out a ``snapshot``; ``exposition`` shows them side by side under the label ``worker``, so a
worker that restarts is a counter reset of its own series and of no other.
"""

from __future__ import annotations

import time
from bisect import bisect_left
from collections.abc import Iterable, Iterator, Mapping
from typing import NamedTuple

import msgspec
from prometheus_client import CollectorRegistry
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    InfoMetricFamily,
    Metric,
)
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest

__all__ = ["CONTENT_TYPE_LATEST", "MAX_SERIES", "OTHER", "Metrics", "exposition"]

OTHER = "other"
MAX_SERIES = 2_000
"""Series of one metric in one worker; what would be one more counts as ``other`` in all labels."""

Labels = tuple[str, ...]


class Definition(NamedTuple):
    """One metric: its help text and its labels, ``worker`` excepted."""

    help: str
    labels: Labels = ()


COUNTERS = {
    "sluicegate_requests": Definition(
        "Calls answered, by what was decided and how the answer began.",
        ("wire", "model", "effect", "status"),
    ),
    "sluicegate_tokens": Definition("Tokens used, as settled.", ("kind", "model")),
    "sluicegate_policy_engine_errors": Definition("Decisions that the policy engine failed."),
    "sluicegate_decision_memo": Definition("Decisions asked of the memo.", ("result",)),
    "sluicegate_attempts_refused": Definition("Calls refused unheard by the attempt guard."),
    "sluicegate_limits_refused": Definition("Calls refused by a limit.", ("kind",)),
    "sluicegate_upstream_errors": Definition(
        "Failures of upstream endpoints, by the endpoint's name in the settings.", ("endpoint",)
    ),
    "sluicegate_exporter_replaced": Definition(
        "Events that gave way to a notice: too long, or refused for good.", ("exporter",)
    ),
    "sluicegate_alarms": Definition("Alarms raised; any increase wants a person.", ("name",)),
}
GAUGES = {
    "sluicegate_streams_open": Definition("Streams that are being relayed now.", ("wire",)),
    "sluicegate_log_lag_records": Definition("Audit records that wait to be durable."),
    "sluicegate_log_lag_seconds": Definition("Age of the oldest audit record that waits."),
    "sluicegate_registry_epoch": Definition("Registry epoch that this worker serves."),
    "sluicegate_exporter_lag_records": Definition(
        "Audit records that are durable and have not arrived.", ("exporter",)
    ),
    "sluicegate_exporter_lag_seconds": Definition(
        "For how long audit records have not arrived.", ("exporter",)
    ),
    "sluicegate_exporter_failures": Definition(
        "Failed attempts of an exporter since its last success.", ("exporter",)
    ),
}
HISTOGRAMS = {
    "sluicegate_step_seconds": Definition("Duration of each step of the request path.", ("step",)),
    "sluicegate_added_latency_seconds": Definition(
        "What the gateway added to a call, the upstream's own time taken off."
    ),
}
BUCKETS = (
    *(0.000_05, 0.000_1, 0.000_25, 0.000_5, 0.001, 0.002_5, 0.005, 0.01, 0.025, 0.05),
    *(0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0),
)
"""Upper bounds in seconds; every histogram has them."""

REVISION = "sluicegate_policy_revision"
WORKER_UP = "sluicegate_worker_up"


class EndpointFailure(NamedTuple):
    """How often an endpoint failed, and when (Unix seconds) and how it did last."""

    times: int
    last_at: float
    reason: str


class _Histogram(msgspec.Struct):
    """Observations: how many fell into each of ``BUCKETS`` and beyond, and their sum."""

    counts: list[int]
    total: float


class _Snapshot(msgspec.Struct):
    counters: dict[str, list[tuple[Labels, int]]]
    gauges: dict[str, list[tuple[Labels, float]]]
    histograms: dict[str, list[tuple[Labels, _Histogram]]]
    revision: str


class Metrics:
    """The counters of one worker process. One thread counts; another may take the snapshot."""

    def __init__(self) -> None:
        self._counters: dict[str, dict[Labels, int]] = {name: {} for name in COUNTERS}
        self._gauges: dict[str, dict[Labels, float]] = {name: {} for name in GAUGES}
        self._histograms: dict[str, dict[Labels, _Histogram]] = {name: {} for name in HISTOGRAMS}
        self._requests = self._counters["sluicegate_requests"]
        self._tokens = self._counters["sluicegate_tokens"]
        self._steps = self._histograms["sluicegate_step_seconds"]
        self._models: frozenset[str] = frozenset()
        self._revision = ""
        self.endpoint_failures: dict[str, EndpointFailure] = {}
        """By endpoint of the settings, for ``sluicegate status``."""

    def show_models(self, names: Iterable[str]) -> None:
        """The catalogue ids that may be seen as a label: all but the embargoed (invariant 8)."""
        self._models = frozenset(names)

    def request(self, wire: str, model: str, effect: str, status: str) -> None:
        """A call was answered.

        Args:
            wire: ``core.facts.Wire``, or ``none`` for a path that is no wire's.
            model: the model asked for; ``other`` unless shown.
            effect: ``core.decision.Effect``, or ``none`` where nothing was decided.
            status: the class of the answer's status, ``2xx`` to ``5xx``.
        """
        label = model if model in self._models else OTHER
        _add(self._requests, (wire, label, effect, status), 1)

    def tokens(self, kind: str, model: str, count: int) -> None:
        """``count`` tokens were used; ``kind`` is ``input`` or ``output``."""
        label = model if model in self._models else OTHER
        _add(self._tokens, (kind, label), count)

    def steps(self, taken: Mapping[str, float]) -> None:
        """How many seconds each step of one call took, by its name."""
        for name, seconds in taken.items():
            _observe(self._steps, (name,), seconds)

    def added_latency(self, seconds: float) -> None:
        """The gateway's own share of a call."""
        _observe(self._histograms["sluicegate_added_latency_seconds"], (), seconds)

    def stream_open(self, wire: str) -> None:
        """A stream begins."""
        streams = self._gauges["sluicegate_streams_open"]
        streams[(wire,)] = streams.get((wire,), 0) + 1

    def stream_close(self, wire: str) -> None:
        """A stream that began has ended."""
        streams = self._gauges["sluicegate_streams_open"]
        streams[(wire,)] = streams.get((wire,), 0) - 1

    def log_lag(self, records: int, seconds: float) -> None:
        """How many audit records wait, and how old the oldest is."""
        self._gauges["sluicegate_log_lag_records"][()] = records
        self._gauges["sluicegate_log_lag_seconds"][()] = seconds

    def registry_epoch(self, epoch: int) -> None:
        """The registry's epoch that this worker serves."""
        self._gauges["sluicegate_registry_epoch"][()] = epoch

    def exporter(
        self, name: str, lag_records: int, lag_s: float | None, failures: int, replaced: int
    ) -> None:
        """How an exporter of the settings does; ``lag_s`` is ``None`` where that is not known."""
        labels = (name,)
        self._gauges["sluicegate_exporter_lag_records"][labels] = lag_records
        if lag_s is not None:
            self._gauges["sluicegate_exporter_lag_seconds"][labels] = lag_s
        self._gauges["sluicegate_exporter_failures"][labels] = failures
        self._counters["sluicegate_exporter_replaced"][labels] = replaced

    def revision(self, revision: str) -> None:
        """The id of the active policy revision; empty before the first."""
        self._revision = revision

    def engine_error(self) -> None:
        """The policy engine gave no decision."""
        _add(self._counters["sluicegate_policy_engine_errors"], (), 1)

    def memo(self, *, hit: bool) -> None:
        """The decision memo was asked."""
        _add(self._counters["sluicegate_decision_memo"], ("hit" if hit else "miss",), 1)

    def attempt_refused(self) -> None:
        """The attempt guard did not hear a call."""
        _add(self._counters["sluicegate_attempts_refused"], (), 1)

    def limit_refused(self, kind: str) -> None:
        """A limit refused a call; ``kind`` as in ``core.refusal.LimitState``, never its name."""
        _add(self._counters["sluicegate_limits_refused"], (kind,), 1)

    def upstream_error(self, endpoint: str, reason: str) -> None:
        """An upstream failed; ``endpoint`` is its name in the settings, ``reason`` how it did."""
        _add(self._counters["sluicegate_upstream_errors"], (endpoint,), 1)
        before = self.endpoint_failures.get(endpoint)
        times = 1 if before is None else before.times + 1
        self.endpoint_failures[endpoint] = EndpointFailure(times, time.time(), reason)

    def alarm(self, name: str) -> None:
        """Something that an operator must see; ``name`` is a constant of the code."""
        _add(self._counters["sluicegate_alarms"], (name,), 1)

    def snapshot(self) -> bytes:
        """All of it, for ``exposition``."""
        return msgspec.msgpack.encode(
            _Snapshot(
                {name: list(series.items()) for name, series in self._counters.items()},
                {name: list(series.items()) for name, series in self._gauges.items()},
                {name: list(series.items()) for name, series in self._histograms.items()},
                self._revision,
            )
        )


def _add(series: dict[Labels, int], labels: Labels, count: int) -> None:
    counted = series.get(labels)
    if counted is None:
        if len(series) >= MAX_SERIES:
            labels = (OTHER,) * len(labels)
        counted = series.get(labels, 0)
    series[labels] = counted + count


def _observe(series: dict[Labels, _Histogram], labels: Labels, seconds: float) -> None:
    histogram = series.get(labels)
    if histogram is None:
        if len(series) >= MAX_SERIES:
            labels = (OTHER,) * len(labels)
        histogram = series.setdefault(labels, _Histogram([0] * (len(BUCKETS) + 1), 0.0))
    histogram.counts[bisect_left(BUCKETS, seconds)] += 1
    histogram.total += seconds


def exposition(snapshots: Mapping[str, bytes | None]) -> bytes:
    """The text of ``/metrics`` (``CONTENT_TYPE_LATEST``) for all workers.

    It takes milliseconds: call it in a thread.

    Args:
        snapshots: by worker name (a bounded set: names are reused by restarts). A worker that gave
            none, or one that cannot be read, is shown as not up and hides no other.
    """
    registry = CollectorRegistry(auto_describe=False)
    registry.register(_Collector(snapshots))
    return generate_latest(registry)


class _Collector:
    """Makes metric families of snapshots when Prometheus asks."""

    def __init__(self, snapshots: Mapping[str, bytes | None]) -> None:
        decoder = msgspec.msgpack.Decoder(_Snapshot)
        self._snapshots: dict[str, _Snapshot] = {}
        self._up: dict[str, bool] = {}
        for worker, raw in sorted(snapshots.items()):
            try:
                self._snapshots[worker] = decoder.decode(raw or b"")
            except (msgspec.DecodeError, UnicodeDecodeError):
                self._up[worker] = False
            else:
                self._up[worker] = True

    def collect(self) -> Iterator[Metric]:
        up = GaugeMetricFamily(WORKER_UP, "1 where the worker reports.", labels=("worker",))
        for worker, is_up in self._up.items():
            up.add_metric((worker,), int(is_up))
        yield up
        yield from self._counters()
        yield from self._gauges()
        yield from self._histograms()
        info = InfoMetricFamily(REVISION, "The active policy revision.", labels=("worker",))
        for worker, snapshot in self._snapshots.items():
            info.add_metric((worker,), {"revision": snapshot.revision})
        yield info

    def _counters(self) -> Iterator[Metric]:
        for name, (text, labels) in COUNTERS.items():
            family = CounterMetricFamily(name, text, labels=(*labels, "worker"))
            for worker, snapshot in self._snapshots.items():
                for values, count in snapshot.counters.get(name, ()):
                    family.add_metric((*values, worker), count)
            yield family

    def _gauges(self) -> Iterator[Metric]:
        for name, (text, labels) in GAUGES.items():
            family = GaugeMetricFamily(name, text, labels=(*labels, "worker"))
            for worker, snapshot in self._snapshots.items():
                for values, value in snapshot.gauges.get(name, ()):
                    family.add_metric((*values, worker), value)
            yield family

    def _histograms(self) -> Iterator[Metric]:
        bounds = [*(str(bound) for bound in BUCKETS), "+Inf"]
        for name, (text, labels) in HISTOGRAMS.items():
            family = HistogramMetricFamily(name, text, labels=(*labels, "worker"))
            for worker, snapshot in self._snapshots.items():
                for values, histogram in snapshot.histograms.get(name, ()):
                    running, cumulative = 0, list[tuple[str, float]]()
                    for bound, count in zip(bounds, histogram.counts, strict=True):
                        running += count
                        cumulative.append((bound, running))
                    family.add_metric((*values, worker), cumulative, histogram.total)
            yield family
