"""What ``status`` says of a control plane, which is a stand-in here."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from gateway.control.plane import PolicySource
from gateway.control.status import Status
from gateway.policy.bundle import Bundle
from tests.policy.small_bundle import small_bundle


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


async def report(the_plane: Any) -> dict[str, Any]:
    return await Status(the_plane, workers=0, addresses={}).report()


async def test_control_nothing_is_wrong_with_the_stand_in() -> None:
    assert (await report(plane()))["problems"] == []


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
