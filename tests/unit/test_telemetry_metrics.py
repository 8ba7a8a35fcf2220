"""Metrics: what is counted is what Prometheus reads, and no caller can name a series."""

from __future__ import annotations

import msgspec
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client.parser import text_string_to_metric_families

from gateway.telemetry.metrics import (
    BUCKETS,
    COUNTERS,
    GAUGES,
    HISTOGRAMS,
    MAX_SERIES,
    Metrics,
    exposition,
)


def samples(raw: bytes) -> dict[tuple[str, ...], float]:
    return {
        (sample.name, *(f"{k}={v}" for k, v in sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(raw.decode())
        for sample in family.samples
    }


def test_everything_counted_is_shown_by_worker() -> None:
    one, two = Metrics(), Metrics()
    one.show_models(["mythos-5"])
    for _ in range(3):
        one.request("messages", "mythos-5", "allow", "2xx")
    two.request("messages", "mythos-5", "allow", "2xx")
    one.tokens("output", "mythos-5", 700)
    one.tokens("output", "mythos-5", 0)
    one.steps({"decide": 0.000_3})
    one.steps({"decide": 99.0})
    one.added_latency(0.002)
    one.stream_open("chat")
    one.stream_open("chat")
    one.stream_close("chat")
    one.log_lag(4, 0.25)
    one.registry_epoch(17)
    one.exporter("siem", 12, 3.5, 2, 1)
    one.exporter("new", 4, None, 0, 0)
    one.revision("abc123")
    one.engine_error()
    one.memo(hit=True)
    one.memo(hit=False)
    one.attempt_refused()
    one.limit_refused("requests")
    one.upstream_error("anthropic", "upstream_timeout")
    assert one.endpoint_failures["anthropic"][::2] == (1, "upstream_timeout")
    one.alarm("registry_mac")
    shown = samples(exposition({"1": one.snapshot(), "2": two.snapshot(), "3": None, "4": b"x"}))
    labels = ("effect=allow", "model=mythos-5", "status=2xx", "wire=messages", "worker=1")
    assert shown["sluicegate_requests_total", *labels] == 3
    other = ("effect=allow", "model=other", "status=2xx", "wire=messages", "worker=2")
    assert shown["sluicegate_requests_total", *other] == 1
    for name, *expected in (
        ("sluicegate_tokens_total", "kind=output", "model=mythos-5", 700),
        ("sluicegate_step_seconds_count", "step=decide", 2),
        ("sluicegate_added_latency_seconds_count", 1),
        ("sluicegate_streams_open", "wire=chat", 1),
        ("sluicegate_log_lag_records", 4),
        ("sluicegate_log_lag_seconds", 0.25),
        ("sluicegate_registry_epoch", 17),
        ("sluicegate_exporter_lag_records", "exporter=siem", 12),
        ("sluicegate_exporter_lag_seconds", "exporter=siem", 3.5),
        ("sluicegate_exporter_failures", "exporter=siem", 2),
        ("sluicegate_exporter_replaced_total", "exporter=siem", 1),
        ("sluicegate_exporter_lag_records", "exporter=new", 4),
        ("sluicegate_policy_revision_info", "revision=abc123", 1),
        ("sluicegate_policy_engine_errors_total", 1),
        ("sluicegate_decision_memo_total", "result=hit", 1),
        ("sluicegate_decision_memo_total", "result=miss", 1),
        ("sluicegate_attempts_refused_total", 1),
        ("sluicegate_limits_refused_total", "kind=requests", 1),
        ("sluicegate_upstream_errors_total", "endpoint=anthropic", 1),
        ("sluicegate_alarms_total", "name=registry_mac", 1),
    ):
        *some, value = expected
        assert shown[(name, *some, "worker=1")] == value, name
    assert ("sluicegate_exporter_lag_seconds", "exporter=new", "worker=1") not in shown
    buckets = {
        key[1].removeprefix("le="): value
        for key, value in shown.items()
        if key[0] == "sluicegate_step_seconds_bucket"
    }
    assert buckets["0.00025"] == 0
    assert buckets["0.0005"] == buckets["10.0"] == 1
    assert buckets["+Inf"] == 2
    up = {key[1]: value for key, value in shown.items() if key[0] == "sluicegate_worker_up"}
    assert up == {"worker=1": 1, "worker=2": 1, "worker=3": 0, "worker=4": 0}


def test_names_and_help_follow_the_conventions() -> None:
    text = exposition({"1": Metrics().snapshot()}).decode()
    for name in COUNTERS:
        assert f"# TYPE {name}_total counter" in text
    for name in HISTOGRAMS:
        assert name.endswith("_seconds")
    for name, definition in {**COUNTERS, **GAUGES, **HISTOGRAMS}.items():
        assert name.startswith("sluicegate_")
        assert definition.help.endswith(".")
    assert tuple(sorted(BUCKETS)) == BUCKETS


@given(names=st.lists(st.text(max_size=40), max_size=60))
def test_k62_model_names_that_callers_invent_are_one_other(names: list[str]) -> None:
    metrics = Metrics()
    metrics.show_models(["glm-5.2"])
    for name in ("glm-5.2", "embargoed-7", *names):
        metrics.request("chat", name, "deny", "4xx")
        metrics.tokens("input", name, 1)
    models = {
        part
        for key in samples(exposition({"1": metrics.snapshot()}))
        for part in key
        if part.startswith("model=")
    }
    assert models == {"model=glm-5.2", "model=other"}


def test_k62_no_metric_grows_without_end() -> None:
    metrics = Metrics()
    for number in range(3 * MAX_SERIES):
        metrics.alarm(f"name-{number}")
        metrics.steps({f"step-{number}": 0.1})
    shown = samples(exposition({"1": metrics.snapshot()}))
    alarms = [key for key in shown if key[0] == "sluicegate_alarms_total"]
    assert len(alarms) == MAX_SERIES + 1
    assert shown["sluicegate_alarms_total", "name=other", "worker=1"] == 2 * MAX_SERIES
    assert shown["sluicegate_step_seconds_count", "step=other", "worker=1"] == 2 * MAX_SERIES


def test_a_snapshot_of_another_version_hides_no_worker() -> None:
    future = msgspec.msgpack.encode({"counters": 7})
    shown = samples(exposition({"1": Metrics().snapshot(), "2": future}))
    assert shown["sluicegate_worker_up", "worker=1"] == 1
    assert shown["sluicegate_worker_up", "worker=2"] == 0
