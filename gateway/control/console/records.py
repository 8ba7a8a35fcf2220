"""One record: its story, its proof, its explanation, and what is sealed of it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, NamedTuple

from fastapi import FastAPI, Path, Request
from fastapi.responses import Response

from gateway.audit.note import NoteError, VerifierKey, parse_checkpoint
from gateway.audit.records import ReviewViewed
from gateway.audit.search import Hit
from gateway.audit.search import Query as Asked
from gateway.audit.terms import effect_of
from gateway.control.console.guard import Denied
from gateway.control.console.pages import Pages, plain
from gateway.control.console.reading import Reading
from gateway.control.desk import FINDINGS
from gateway.control.explain import NotExplained
from gateway.control.reveal import sealed_parts
from gateway.control.reviewing import CODES, Case
from gateway.control.staff import Staff
from gateway.core.approval import Approval

__all__ = ["download", "record_pages"]

PAGE = 50
_SHORT = 24

Json = dict[str, Any]
Leaf = Annotated[int, Path(ge=0, lt=1 << 63)]


class Proof(NamedTuple):
    """One line of a record's badge: ``state`` is good, not-yet, none or bad."""

    name: str
    state: str
    said: str


def record_pages(app: FastAPI, pages: Pages, staff: Staff, reading: Reading) -> None:
    """Add them to the console."""

    async def proved(shard: str, seq: int) -> Hit:
        hit = await reading.record(shard, seq)
        if hit is None:
            raise Denied(404, "There is no such record.", "Search for it.")
        return hit

    async def viewed(request: Request, what: str, hit: Hit) -> None:
        ref = f"{hit.shard}#{hit.seq}"
        await staff.record(ReviewViewed(actor=request.state.session.member, what=what, ref=ref))

    @app.get("/records/{shard}/{seq}")
    async def record(request: Request, shard: str, seq: Leaf) -> Response:
        hit = await proved(shard, seq)
        value = hit.json()
        place = f"{hit.shard}#{hit.seq}"
        timeline = [(place, value)]
        if value.get("request_id"):
            asked = Asked(name=value["request_id"])
            others = await reading.hits(asked, limit=PAGE)
            timeline = [(f"{each.shard}#{each.seq}", each.json()) for each in reversed(others)]
        await viewed(request, "record", hit)
        first = timeline[0][1]
        caller = first.get("subject", {})
        return pages.page(
            request,
            "record",
            hit=hit,
            place=place,
            record=value,
            story=_story([each for _, each in timeline]),
            rows=list(_flat("", value)),
            timeline=timeline,
            run=(caller.get("id", ""), caller.get("credential", ""), int(first["hlc"])),
            proofs=_proofs(reading, hit),
            raw=hit.raw.decode(),
            finding=value["type"] in FINDINGS,
            codes=CODES,
            steps=staff.reviews.steps("", value["type"], int(value["hlc"]), int(value["hlc"])),
            sealed=sealed_parts(value),
            cases=_cases_of(staff, first),
            asked=_asked_for(staff, place),
            links=_links(value),
        )

    @app.get("/records/{shard}/{seq}/explain")
    async def explained(request: Request, shard: str, seq: Leaf) -> Response:
        hit = await proved(shard, seq)
        await viewed(request, "explanation", hit)
        unavailable, found = "", None
        try:
            found = await reading.explained(hit)
        except NotExplained as error:
            unavailable = str(error)
        return pages.page(
            request,
            "explain",
            status=409 if unavailable else 200,
            place=f"{hit.shard}#{hit.seq}",
            story=_story([hit.json()]),
            found=found,
            unavailable=unavailable,
        )

    @app.get("/records/{shard}/{seq}/raw")
    async def raw(request: Request, shard: str, seq: Leaf) -> Response:
        hit = await proved(shard, seq)
        await viewed(request, "raw", hit)
        return download(hit.raw, "application/json", f"{shard}-{seq}.json")

    @app.get("/records/{shard}/{seq}/proof")
    async def proof(request: Request, shard: str, seq: Leaf) -> Response:
        hit = await proved(shard, seq)
        await viewed(request, "proof", hit)
        return download(hit.proof(), "text/plain", f"{shard}-{seq}.tlog-proof")


def _cases_of(staff: Staff, intent: Json) -> list[Case]:
    """The open cases that hold a call."""
    subject, at = intent.get("subject", {}).get("id", ""), int(intent["hlc"])
    return [
        case for case in staff.reviews.cases.values() if not case.closed and case.holds(subject, at)
    ]


def _asked_for(staff: Staff, place: str) -> list[Approval]:
    """The approvals that are about a record."""
    wanted = f'"record":"{place}"'
    return [each for each in staff.approvals.all.values() if wanted in each.shown]


def download(body: bytes, kind: str, name: str) -> Response:
    """A file to keep; the browser shows none of it as a page."""
    safe = "".join(each if each.isalnum() or each in "-._" else "_" for each in name)
    headers = {"content-disposition": f'attachment; filename="{safe}"'}
    return Response(body, media_type=kind, headers=headers)


def _story(timeline: list[Json]) -> str:
    """The record in one sentence."""
    record = timeline[0]
    kind = record["type"]
    who = record.get("subject", {}).get("id") or record.get("actor") or "The gateway"
    if kind not in {"access.intent", "access.denied"}:
        what = kind.replace(".", ": ").replace("_", " ")
        return plain(f"{who}: {what} {record.get('op', '')}".rstrip() + ".")
    model = record.get("model", {})
    asked = model.get("requested") or "a model"
    reasons = record.get("decision", {}).get("reasons", [])
    rules = " and ".join(f"{each['code']} (rule {each['rule']})" for each in reasons)
    if kind == "access.denied":
        effect = effect_of(record)
        why = rules if effect != "refused" and rules else record.get("reason", "")
        return plain(f"{who} asked for {asked} and was refused: {why or effect}.")
    served = model.get("authorised", "")
    instead = f", and was given {served} instead" if served not in {"", asked} else ""
    end = next((each for each in timeline if each["type"] == "access.outcome"), None)
    if end is None:
        return plain(
            f"{who} asked for {asked}{instead}; the call still runs, or its end is elsewhere."
        )
    tokens = end.get("tokens", {})
    used = f", {tokens.get('in', 0):,} tokens in and {tokens.get('out', 0):,} out" if tokens else ""
    return plain(
        f"{who} asked for {asked}{instead}; it ended {end['status']} after "
        f"{end.get('dur_ms', 0):,} ms{used}."
    )


def _flat(prefix: str, value: Mapping[str, Any]) -> Any:
    for name, each in value.items():
        if isinstance(each, dict):
            yield from _flat(f"{prefix}{name}.", each)
        elif isinstance(each, list):
            shown = [
                " ".join(f"{key}={part}" for key, part in item.items())
                if isinstance(item, dict)
                else str(item)
                for item in each
            ]
            yield prefix + name, "\n".join(shown)
        else:
            yield prefix + name, each


def _links(record: Json) -> list[tuple[str, str]]:
    """Facts of a record by which others are found."""
    subject, model = record.get("subject", {}), record.get("model", {})
    decision = record.get("decision", {})
    found = [
        ("subject", subject.get("id", "")),
        ("organisation", subject.get("org", "")),
        ("credential", subject.get("credential", "")),
        ("model", model.get("requested", "")),
        ("revision", decision.get("revision", "") or record.get("revision", "")),
        *(("rule", each["rule"]) for each in decision.get("reasons", ())),
        ("actor", record.get("actor", "")),
        ("case", record.get("case", "")),
    ]
    return [(name, value) for name, value in found if value]


def _proofs(reading: Reading, hit: Hit) -> list[Proof]:
    """The badge: computed from the bytes that the page shows, each kind of proof by itself."""
    size = hit.checkpoint.size
    held = Proof(
        "in the log's signed checkpoint",
        "good",
        f"leaf {hit.seq:,} of {size:,}, root {hit.checkpoint.root.hex()[:_SHORT]}…, checked now",
    )
    return [
        held,
        _cosigned(reading, hit),
        Proof("in a cluster log", "none", "this gateway writes none"),
        Proof("timestamped (RFC 3161)", "none", "this gateway asks no timestamping authority"),
    ]


def _cosigned(reading: Reading, hit: Hit) -> Proof:
    name = "cosigned by witnesses"
    try:
        note = reading.state.cosigned(hit.shard).read_bytes()
        key = VerifierKey.parse(reading.state.vkey(hit.shard).read_text().strip())
        kept = parse_checkpoint(note, [key])
    except FileNotFoundError:
        return Proof(name, "none", "no witness has been asked: sluicegate audit cosign")
    except (NoteError, OSError) as error:
        return Proof(name, "bad", f"what is kept of witnesses cannot be read: {error}")
    by = [line.split(" ")[1] for line in note.decode().splitlines() if line.startswith("— ")][1:]
    if hit.seq >= kept.size:
        return Proof(name, "not-yet", f"the last cosigned checkpoint holds {kept.size:,} records")
    told = f"{', '.join(by)} cosigned {kept.size:,} records; their keys are checked by "
    return Proof(name, "not-yet", told + "sluicegate audit verify --witness-key")
