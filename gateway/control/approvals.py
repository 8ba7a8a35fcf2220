"""The approvals that there are: folded from the control log, and nothing beside it. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from gateway.core.approval import Act, Approval, digest_of
from gateway.core.clock import parse_rfc3339_ns, parse_timestamp
from gateway.core.staff import Role

__all__ = ["Approvals"]

NS = 1_000_000_000


class Approvals:
    """All approvals, by id."""

    def __init__(self) -> None:
        self.all: dict[str, Approval] = {}

    def apply(self, record: Mapping[str, Any]) -> None:
        """One record more; records of other kinds change nothing, nor does a step that the approval
        itself does not allow: what stands in the log was allowed when it was written."""
        kind = record["type"]
        if kind == "approval.requested" and digest_of(record["shown"]) == record["digest"]:
            self.all[record["approval"]] = Approval(
                id=record["approval"],
                act=Act(record["act"]),
                author=record["actor"],
                reason=record.get("reason", ""),
                shown=record["shown"],
                roles=tuple(Role(role) for role in record["roles"]),
                needed=record["needed"],
                eligible=tuple(record["eligible"]),
                asked_at=parse_rfc3339_ns(record["time"]) / NS,
                expires_at=float(parse_timestamp(record["expires_at"])),
            )
        known = self.all.get(record.get("approval", ""))
        if known is None:
            return
        if kind == "approval.given" and record["digest"] == known.digest:
            lasts_until = float(parse_timestamp(record["lasts_until"]))
            self.all[known.id] = known.with_vote(
                record["actor"], parse_rfc3339_ns(record["time"]) / NS, lasts_until
            )
        elif kind == "approval.refused":
            self.all[known.id] = known.with_refusal(record["actor"], record.get("reason", ""))
