"""One picture of the gateway: what is wrong, whom it reaches, what to do about it."""

from __future__ import annotations

import math
import shlex
import time
from collections.abc import Mapping
from typing import Any

import msgspec

from gateway.control.exporters import ExporterReport, exporter_problems, exporter_reports
from gateway.control.plane import ControlPlane
from gateway.core.protocols import Revision
from gateway.core.reasons import Reason
from gateway.policy.revision import revision_of
from gateway.settings import Exporter

__all__ = ["Status"]

SILENT_S = 5.0
"""A worker that has not reported for so long is not ready."""
FAILING_S = 60.0
"""For so long after its last failure an endpoint is a problem."""
NAMED_AT_MOST = 5
_SEALED = b"sealed"
"""What stands in every rule or data that asks for sealed content."""
_DO_ABOUT: Mapping[str, str] = {
    Reason.UPSTREAM_CREDENTIAL: "set another key for upstreams.{name}: {url} refuses it",
    Reason.UPSTREAM_UNREACHABLE: "see that {url} can be reached from here, and that it is right",
}


class Status:
    """Reads the control plane; changes nothing.

    Args:
        workers: how many data workers there should be.
        addresses: URL by listener, for people.
        endpoints: URL by model endpoint of the settings.
        sealable: whether the settings hold the keys to which content is sealed.
        exporters: by name, of the settings.
    """

    def __init__(
        self,
        plane: ControlPlane,
        *,
        workers: int,
        addresses: Mapping[str, str],
        endpoints: Mapping[str, str],
        sealable: bool,
        exporters: Mapping[str, Exporter] | None = None,
    ) -> None:
        self._plane = plane
        self._expected = workers
        self._addresses = addresses
        self._endpoints = endpoints
        self._sealable = sealable
        self._exporters = exporters or {}
        self._read: Revision | None = None
        self._started = time.time()

    async def report(self) -> dict[str, Any]:
        """Everything ``sluicegate status`` shows, as JSON values."""
        plane = self._plane
        workers = [self._worker(worker) for worker in plane.workers]
        active = plane.lifecycle.active
        problems = self._problems(workers)
        return {
            "ready": self.ready,
            "problems": problems,
            "notes": self._unserved(),
            "addresses": self._addresses,
            "started_at": int(self._started),
            "revision": active.id if active is not None else None,
            "policy_source": plane.source.name,
            "registry": {
                "epoch": plane.registry.snapshot.epoch,
                "organisations": len(plane.registry.snapshot.entities("organisation")),
                "members": len(plane.registry.snapshot.entities("member")),
                "credentials": len(plane.registry.snapshot.entities("credential")),
                "findings": [
                    {"code": each.code, "kind": each.kind, "id": each.id, "message": each.message}
                    for each in plane.registry.findings
                ],
            },
            "control_log": {"size": plane.log.head.size, "failed": plane.log.failed},
            "workers": workers,
            "endpoints": self._failures(),
            "exporters": [msgspec.structs.asdict(each) for each in self.exporters()],
            "alarms": {
                name: {"count": plane.alarms.counts[name], "latest": detail}
                for name, detail in plane.alarms.latest.items()
            },
        }

    def exporters(self) -> list[ExporterReport]:
        """How each exporter of the settings does; none where what they keep cannot be read."""
        try:
            return exporter_reports(self._plane.state, self._exporters)
        except OSError:
            return []

    @property
    def ready(self) -> bool:
        """Whether calls can be served: a policy is active and at least one worker is ready."""
        now = time.monotonic()
        return self._plane.lifecycle.active is not None and any(
            worker.report is not None and worker.report.ready and now - worker.heard_at < SILENT_S
            for worker in self._plane.workers
        )

    def rules(self) -> dict[str, dict[str, Any]]:
        """Where each rule id of the active revision is defined."""
        revision = self._revision()
        if revision is None:
            return {}
        return {
            rule: {"file": source.file, "line": source.line}
            for rule, source in revision.rules.items()
        }

    def _revision(self) -> Revision | None:
        """The active revision as the gateway reads it; read once."""
        active = self._plane.lifecycle.active
        if active is None:
            return None
        if self._read is None or self._read.id != active.id:
            self._read = revision_of(active)
        return self._read

    def _models_at(self, endpoint: str) -> str:
        """The models of an endpoint, a few by name. An embargoed one is counted and never named:
        what is said here reaches logs and probes (invariant 8)."""
        revision = self._revision()
        if revision is None:
            return "no model"
        there = [each.id for each in revision.catalogue.values() if each.endpoint == endpoint]
        named = sorted(set(there) - revision.hidden)[:NAMED_AT_MOST]
        more = len(there) - len(named)
        return ", ".join(
            [*named, *([f"{more} more" if named else f"{more} models"] if more else [])]
        )

    def _unserved(self) -> list[dict[str, str]]:
        """Endpoints that the catalogue names and the settings do not: allowed, and not to be had.
        No problem, for a gateway may well do without one."""
        revision = self._revision()
        asked = {} if revision is None else revision.catalogue
        missing = sorted({each.endpoint for each in asked.values()} - self._endpoints.keys())
        return [
            {
                "what": f"the catalogue names the endpoint {name}, which is not configured",
                "reaches": f"callers of {self._models_at(name)}: their calls are refused",
                "do": f"set upstreams.{name} in the configuration and restart, "
                "or take its models out of data/models.yaml",
            }
            for name in missing
        ]

    def _unsealable(self) -> list[dict[str, str]]:
        """Rules that may ask for sealed content, where nothing can be sealed."""
        active = self._plane.lifecycle.active
        asked = active is not None and any(_SEALED in text for text in active.files.values())
        if self._sealable or not asked:
            return []
        return [
            {
                "what": "the rules may ask for sealed content, and there are no keys to seal it to",
                "reaches": "callers whose calls are to be sealed: each is refused, with "
                f"{Reason.CONTENT_KEYS_MISSING}",
                "do": "sluicegate content keygen reviewer -o FILE, and approver likewise; set "
                "content.reviewer and content.approver to the lines that it prints; restart",
            }
        ]

    def _failures(self) -> dict[str, dict[str, Any]]:
        """By configured endpoint: how often it failed in the workers that run, and when last."""
        shown: dict[str, dict[str, Any]] = {
            name: {"url": url, "failures": 0} for name, url in self._endpoints.items()
        }
        for worker in self._plane.workers:
            failures = worker.report.failures if worker.report is not None else {}
            for name in failures.keys() & shown.keys():
                failed, entry = failures[name], shown[name]
                entry["failures"] += failed.times
                if failed.last_at >= entry.get("last_at", 0):
                    entry |= {"last_at": int(failed.last_at), "reason": failed.reason}
        return shown

    def _failing(self) -> list[dict[str, str]]:
        """Endpoints that failed just now."""
        now = time.time()
        return [
            {
                "what": f"the endpoint {name} fails: {failed['reason']}, {failed['failures']} "
                f"since the start, the last {max(0, int(now - failed['last_at']))} s ago",
                "reaches": f"callers of {self._models_at(name)}",
                "do": _DO_ABOUT.get(failed["reason"], "see that {url} answers").format(
                    name=name, url=failed["url"]
                ),
            }
            for name, failed in self._failures().items()
            if now - failed.get("last_at", -math.inf) < FAILING_S
        ]

    def _worker(self, worker: Any) -> dict[str, Any]:
        report = worker.report
        shown: dict[str, Any] = {
            "shard": worker.hello.shard,
            "pid": worker.hello.pid,
            "heard_s_ago": round(time.monotonic() - worker.heard_at, 1),
            "ready": report is not None and report.ready,
        }
        if report is not None:
            shown |= {
                "revision": report.revision,
                "epoch": report.epoch,
                "running": report.running,
                "log_size": report.log_size,
                "log_failed": report.log_failed,
                "memo_hits": report.memo_hits,
                "memo_misses": report.memo_misses,
            }
        return shown

    def _mend_the_rules(self) -> str:
        """The commands, with this gateway's own paths, that bring good rules in."""
        source, root = self._plane.source, shlex.quote(str(self._plane.state.root))
        path = shlex.quote(str(source.path.absolute()))
        if source.watched is not None:
            return f"sluicegate policy check {path}, mend what it names: saved files are taken up"
        return (
            "mend the rules where they are written, "
            f"sluicegate policy build RULES -o {path} --signing-key KEY.pem, "
            f"sluicegate policy reload --dir {root} --reason …"
        )

    def _problems(self, workers: list[dict[str, Any]]) -> list[dict[str, str]]:
        """What is wrong: ``what``, ``reaches`` (whom), ``do`` (the next command)."""
        plane = self._plane
        found = []
        if plane.lifecycle.active is None:
            found.append(
                {
                    "what": "no policy is active: "
                    + ("; ".join(plane.rejected[:3]) or "none was loaded"),
                    "reaches": "every caller: nothing is let through",
                    "do": self._mend_the_rules(),
                }
            )
        elif plane.rejected:
            found.append(
                {
                    "what": "the newest rules were rejected: " + "; ".join(plane.rejected[:3]),
                    "reaches": "nobody yet: the revision before stays active",
                    "do": self._mend_the_rules(),
                }
            )
        if len(workers) < self._expected:
            found.append(
                {
                    "what": f"{len(workers)} of {self._expected} data workers are connected",
                    "reaches": "callers: less capacity, or none",
                    "do": "read the log lines of the missing worker; it is restarted by itself",
                }
            )
        found += [
            {
                "what": f"{worker['shard']} decides nothing yet: no revision is active there",
                "reaches": "callers of that worker: nothing is let through",
                "do": "with policy.engine opa: see that OPA runs and pulls from the ops listener",
            }
            for worker in workers
            if worker.get("revision") == ""
        ]
        found += [
            {
                "what": f"{worker['shard']} cannot write its log: {worker['log_failed']}",
                "reaches": "every caller of that worker: nothing is forwarded",
                "do": "free or mend the disk, then restart the gateway",
            }
            for worker in workers
            if worker.get("log_failed")
        ]
        if plane.log.failed is not None:
            found.append(
                {
                    "what": f"the control log cannot be written: {plane.log.failed}",
                    "reaches": "operators: no change can be made",
                    "do": "free or mend the disk, then restart the gateway",
                }
            )
        found += [*self._unsealable(), *self._failing()]
        found += exporter_problems(self.exporters(), self._exporters, self._started)
        found += [
            {
                "what": f"{each.code}: {each.kind} {each.id}: {each.message}",
                "reaches": f"{each.kind} {each.id}" if each.id else "everyone",
                "do": each.remedy,
            }
            for each in plane.registry.findings
        ]
        return found
