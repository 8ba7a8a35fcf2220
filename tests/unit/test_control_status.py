"""What ``status`` says of a control plane, which is a stand-in here."""

from __future__ import annotations

import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from gateway.bus import EndpointFailures, Hello, Report
from gateway.control.plane import PolicySource
from gateway.control.status import FAILING_S, Status
from gateway.policy.bundle import Bundle, bundle_from_files
from tests.policy.small_bundle import FILES, MODELS, small_bundle


def unread() -> Bundle:
    raise AssertionError("status reads no source")


def plane(**changes: Any) -> Any:
    """A plane with a policy and without a worker."""
    return SimpleNamespace(
        **{
            "workers": [],
            "lifecycle": SimpleNamespace(active=small_bundle()),
            "rejected": (),
            "source": PolicySource(unread, "directory", Path("/etc/my rules"), watched=Path()),
            "state": SimpleNamespace(root=Path("/var/lib/the gate")),
            "registry": SimpleNamespace(
                snapshot=SimpleNamespace(epoch=1, entities=lambda _: []), findings=[]
            ),
            "log": SimpleNamespace(head=SimpleNamespace(size=1), failed=None),
            "alarms": SimpleNamespace(latest={}, counts={}),
        }
        | changes
    )


async def report(the_plane: Any, *, sealable: bool = True) -> dict[str, Any]:
    endpoints = {"anthropic": "http://a.example"}
    status = Status(the_plane, workers=0, addresses={}, endpoints=endpoints, sealable=sealable)
    return await status.report()


async def test_control_nothing_is_wrong_with_the_stand_in() -> None:
    assert (await report(plane()))["problems"] == []


def test_rules_that_ask_for_sealed_content_need_keys_to_seal_it_to() -> None:
    asking = SimpleNamespace(files={"data/stages.yaml": b"trusted: {capture: sealed_request}"})

    def told(active: Any, *, sealable: bool) -> list[dict[str, str]]:
        lifecycle = SimpleNamespace(active=active)
        the_plane = plane(lifecycle=lifecycle)
        status = Status(the_plane, workers=0, addresses={}, endpoints={}, sealable=sealable)
        return status._unsealable()

    (problem,) = told(asking, sealable=False)
    assert "no keys to seal it to" in problem["what"]
    assert "content_keys_missing" in problem["reaches"]
    assert "sluicegate content keygen reviewer" in problem["do"]
    assert told(asking, sealable=True) == []
    assert told(small_bundle(), sealable=False) == []  # nothing asks for it
    assert told(None, sealable=False) == []


@pytest.mark.parametrize("active", [None, small_bundle()])
async def test_rejected_rules_are_mended_where_they_are(active: Bundle | None) -> None:
    rejected = {"rejected": ("a.rego:1: no",), "lifecycle": SimpleNamespace(active=active)}
    (problem,) = (await report(plane(**rejected)))["problems"]
    assert problem["do"].startswith("sluicegate policy check '/etc/my rules', ")
    assert "reload" not in problem["do"]
    signed = PolicySource(unread, "p.tar.gz", Path("/etc/p.tar.gz"))
    (problem,) = (await report(plane(source=signed, **rejected)))["problems"]
    assert "policy build RULES -o /etc/p.tar.gz --signing-key KEY.pem" in problem["do"]
    assert "policy reload --dir '/var/lib/the gate' --reason" in problem["do"]


def worker(**failures: EndpointFailures) -> Any:
    """One that reports these failures, by endpoint."""
    told = Report(True, "r", 1, 0, 1, "", b"", failures=failures)
    return SimpleNamespace(
        hello=Hello("data-0", 1, "k"), report=told, heard_at=time.monotonic(), waiting={}
    )


async def test_an_endpoint_that_failed_just_now_is_a_problem() -> None:
    now = time.time()
    workers = [
        worker(anthropic=EndpointFailures(2, now - 7, "upstream_unreachable")),
        worker(anthropic=EndpointFailures(3, now - 3, "upstream_credential")),
    ]
    told = await report(plane(workers=workers))
    (problem,) = told["problems"]
    assert problem["what"].startswith("the endpoint anthropic fails: upstream_credential, 5 since")
    assert problem["what"].endswith("the last 3 s ago")
    assert problem["reaches"] == "callers of mythos-5, opus"
    assert problem["do"] == "set another key for upstreams.anthropic: http://a.example refuses it"
    assert told["endpoints"] == {
        "anthropic": {
            "url": "http://a.example",
            "failures": 5,
            "last_at": int(now - 3),
            "reason": "upstream_credential",
        }
    }


async def test_an_endpoint_that_failed_long_ago_is_counted_and_no_problem() -> None:
    old = EndpointFailures(2, time.time() - FAILING_S - 1, "upstream_timeout")
    told = await report(plane(workers=[worker(anthropic=old)]))
    assert told["problems"] == []
    assert told["endpoints"]["anthropic"]["failures"] == 2


async def test_an_endpoint_of_the_catalogue_that_is_not_configured_is_noted() -> None:
    assert (await report(plane()))["notes"] == []
    elsewhere = small_bundle(models=MODELS.replace("endpoint: anthropic", "endpoint: vllm", 1))
    (note,) = (await report(plane(lifecycle=SimpleNamespace(active=elsewhere))))["notes"]
    assert "names the endpoint vllm, which is not configured" in note["what"]
    assert note["reaches"] == "callers of mythos-5: their calls are refused"
    assert "set upstreams.vllm" in note["do"]


async def test_inv8_an_embargoed_model_is_counted_and_not_named() -> None:
    files = {**FILES, "data/models.yaml": MODELS.replace("stage: trusted", "stage: embargoed")}
    files["data/stages.yaml"] = (
        "embargoed: {admits: [], visible_to: [evaluator]}\ngeneral: {admits: [{}]}\n"
    )
    hiding = bundle_from_files({name: text.encode() for name, text in files.items()})
    failing = worker(anthropic=EndpointFailures(1, time.time(), "upstream_timeout"))
    told = await report(plane(lifecycle=SimpleNamespace(active=hiding), workers=[failing]))
    assert told["problems"][0]["reaches"] == "callers of opus, 1 more"
    assert "mythos" not in str(told)
