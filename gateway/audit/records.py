"""What a record says: one frozen type for each ``type`` of ``audit/1``.

A record is written as UTF-8 JSON with sorted keys and no white space; its values are strings,
integers below 2**53, booleans, objects and arrays. Fields left at their default are not written.
Nanosecond numbers are strings. The writer fills the common fields and, where they belong,
``parent`` and ``facts``; callers leave those alone. Fields may be added within ``audit/1``; a
field whose meaning changes makes ``audit/2``, and old bytes are never written again.
"""

from __future__ import annotations

from typing import Literal

import msgspec
from msgspec import Struct, field

__all__ = [
    "MAX_RECORD_BYTES",
    "VERSION",
    "AccessDenied",
    "AccessIntent",
    "AccessOutcome",
    "AccessRefusedSummary",
    "AnyRecord",
    "ApprovalGiven",
    "ApprovalRefused",
    "ApprovalRequested",
    "CaseClosed",
    "CaseExtended",
    "CaseOpened",
    "ConfigChanged",
    "ContentPruned",
    "ContentRange",
    "ContentRef",
    "ContentRevealed",
    "DecisionRef",
    "FactsRef",
    "Gateway",
    "LimitTaken",
    "LogClosed",
    "LogHeartbeat",
    "LogOpened",
    "LogRecovered",
    "ModelRef",
    "PolicyActivated",
    "PolicyEngineError",
    "PolicyRejected",
    "ReasonRef",
    "Record",
    "RegistryChanged",
    "RegistryTampered",
    "RequestRef",
    "ResponseRef",
    "ReviewAssigned",
    "ReviewExported",
    "ReviewNoted",
    "ReviewResolved",
    "ReviewSearched",
    "ReviewViewed",
    "SourceRef",
    "Span",
    "StaffLinkMade",
    "StaffRefused",
    "StaffSignedIn",
    "StaffSignedOut",
    "SubjectRef",
    "Tokens",
    "UpstreamRef",
    "decode",
    "encode",
]

VERSION = "audit/1"
MAX_RECORD_BYTES = 32 * 1024
MAX_TEXT = 512
"""Characters of free text in a record; the rest is dropped and ``truncated`` says so."""
MAX_FINDINGS = 32

OutcomeStatus = Literal[
    "ok",
    "denied",
    "upstream_error",
    "client_abort",
    "policy_cut",
    "timeout",
    "interrupted",
    "shutdown",
]


class _Part(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A piece of a record."""


class Gateway(_Part, frozen=True, kw_only=True):
    """The process that wrote the record."""

    node: str
    build: str = ""
    config_digest: str = ""


class SubjectRef(_Part, frozen=True, kw_only=True):
    """Who asked. ``credential`` is a registry id or a keyed hash, never the credential; ``tiers``
    are the levels by domain that the decision saw, before the organisation's caps."""

    id: str
    org: str
    kind: str
    credential: str
    cred_kind: str
    bound: str = "none"
    engagement: str = ""
    tiers: dict[str, int] = {}


class SourceRef(_Part, frozen=True, kw_only=True):
    """Where the call came from: a keyed hash of the address, listed networks, country."""

    hmac: str
    labels: tuple[str, ...] = ()
    country: str = "ZZ"


class ModelRef(_Part, frozen=True, kw_only=True):
    """What was asked for, what was authorised, and where it is served.

    ``requested`` is a catalogue id, or ``unknown`` with a keyed hash of the name in
    ``requested_hmac``.
    """

    requested: str
    requested_hmac: str = ""
    authorised: str = ""
    endpoint: str = ""


class ReasonRef(_Part, frozen=True, kw_only=True):
    """A reason code and the rule that gave it."""

    code: str
    rule: str


class DecisionRef(_Part, frozen=True, kw_only=True):
    """The decision. The input it was made from is what the record's ``facts`` commit to."""

    effect: str
    revision: str
    reasons: tuple[ReasonRef, ...] = ()
    directives: tuple[str, ...] = ()
    valid_until: str = ""
    capture: str = ""
    review: bool = False
    eval_us: int = 0
    memo: bool = False


class LimitTaken(_Part, frozen=True, kw_only=True):
    """One limit after the reservation."""

    name: str
    key: str
    limit: int
    left: int


class ContentRef(_Part, frozen=True, kw_only=True):
    """What is kept of a body's content; nothing from which it could be guessed.

    ``digest`` is that of all of it, keyed with the member's key (``content.keyed_digest``). Where
    it is sealed, ``sealed_sha256`` is the digest of the sealed piece, which lies at ``offset`` of
    ``segment`` among the log's content files and holds the first ``kept`` bytes; ``truncated``
    says that there were more.
    """

    digest: str
    sealed_sha256: str = ""
    segment: str = ""
    offset: int = 0
    kept: int = 0
    truncated: bool = False


class RequestRef(_Part, frozen=True, kw_only=True):
    """The body as received; ``forwarded_digest`` is its keyed digest as sent on, where it was
    edited. ``sha256`` and ``forwarded_sha256`` stand in records that were made before digests were
    keyed."""

    bytes: int
    content: ContentRef | None = None
    forwarded_digest: str = ""
    sha256: str = ""
    forwarded_sha256: str = ""
    edits: tuple[str, ...] = ()
    stream: bool = False
    max_output_tokens: int = 0


class FactsRef(_Part, frozen=True, kw_only=True):
    """The sealed facts: ``SHA256(salt || facts)`` and the SHA-256 of the sealed frame, in hex."""

    commitment: str
    sealed_sha256: str


class UpstreamRef(_Part, frozen=True, kw_only=True):
    """What the endpoint answered: its own request id and status, for reconciliation."""

    endpoint: str
    request_id: str = ""
    status: int = 0


class Tokens(_Part, frozen=True, kw_only=True):
    """Tokens used, and how that is known."""

    input: int = field(name="in")
    output: int = field(name="out")
    usage_source: Literal["upstream", "counted", "reserved", "none"]
    cached: int = 0
    reasoning: int = 0


class ResponseRef(_Part, frozen=True, kw_only=True):
    """The bytes that left for the client; ``sha256`` as in ``RequestRef``."""

    bytes: int
    content: ContentRef | None = None
    sha256: str = ""
    finish: str = ""


class Record(Struct, frozen=True, kw_only=True, omit_defaults=True, tag_field="type"):
    """The common fields, all filled by the writer.

    ``seq`` is the leaf index; ``time`` the wall clock as read (RFC 3339, ns) and ``hlc`` a number
    that always grows; ``mono`` the monotonic clock (ns) of the boot of the process that ``boot``
    names; ``clock`` is ``regressed`` where the wall clock stood before an earlier record's.
    """

    v: str = ""
    log: str = ""
    seq: int = -1
    time: str = ""
    hlc: str = ""
    boot: str = ""
    mono: str = ""
    clock: Literal["", "ok", "regressed"] = ""
    gateway: Gateway | None = None


class _Explained(Record, frozen=True, kw_only=True):
    """A record with free text by an operator or an error: cut at ``MAX_TEXT`` characters."""

    reason: str = ""
    truncated: bool = False

    def __post_init__(self) -> None:
        if len(self.reason) > MAX_TEXT:
            msgspec.structs.force_setattr(self, "reason", self.reason[:MAX_TEXT])
            msgspec.structs.force_setattr(self, "truncated", True)


class AccessIntent(Record, frozen=True, kw_only=True, tag="access.intent"):
    """Durable before the upstream is contacted. Exactly one outcome follows."""

    request_id: str
    decision_id: str
    subject: SubjectRef
    src: SourceRef
    wire: str
    action: str
    model: ModelRef
    decision: DecisionRef
    request: RequestRef
    limits: tuple[LimitTaken, ...] = ()
    facts: FactsRef | None = None
    trace_id: str = ""


class AccessOutcome(_Explained, frozen=True, kw_only=True, tag="access.outcome"):
    """How an intent ended; durable before the end of the answer is released."""

    request_id: str
    status: OutcomeStatus
    parent: int = -1
    http: int = 0
    upstream: UpstreamRef | None = None
    served_model: str = ""
    tokens: Tokens | None = None
    response: ResponseRef | None = None
    ttfb_ms: int = 0
    dur_ms: int = 0


class AccessDenied(_Explained, frozen=True, kw_only=True, tag="access.denied"):
    """A known principal's refusal, in one phase. What had not happened yet is absent."""

    request_id: str
    http: int
    decision_id: str = ""
    subject: SubjectRef | None = None
    src: SourceRef | None = None
    wire: str = ""
    action: str = ""
    model: ModelRef | None = None
    decision: DecisionRef | None = None
    request: RequestRef | None = None
    limits: tuple[LimitTaken, ...] = ()
    facts: FactsRef | None = None
    trace_id: str = ""


class AccessRefusedSummary(Record, frozen=True, kw_only=True, tag="access.refused_summary"):
    """Anonymous refusals of a time window: by reason, and by keyed source for the busiest."""

    window_s: int
    counts: dict[str, int]
    sources: dict[str, int]
    other: int = 0


class RegistryChanged(_Explained, frozen=True, kw_only=True, tag="registry.changed"):
    """A privileged row was made, changed or ended. Digests are of the canonical row; ``fields``
    names what differs and ``tiers`` holds the levels after the change. ``facts`` are the row after
    it, sealed under the key of the member ``sealed_for``, or the registry's where that is empty."""

    kind: str
    id: str
    op: str
    actor: str
    epoch: int
    digest_before: str = ""
    digest_after: str = ""
    fields: tuple[str, ...] = ()
    tiers: dict[str, int] = {}
    sealed_for: str = ""
    facts: FactsRef | None = None


class RegistryTampered(Record, frozen=True, kw_only=True, tag="registry.tampered"):
    """A row was changed behind the gateway."""

    kind: str
    id: str
    finding: str


class PolicyActivated(_Explained, frozen=True, kw_only=True, tag="policy.activated"):
    """A revision became the active one."""

    revision: str
    actor: str
    previous: str = ""
    source: str = ""


class PolicyRejected(Record, frozen=True, kw_only=True, tag="policy.rejected"):
    """A candidate was refused; the last known good stays. Long findings are cut."""

    revision: str = ""
    findings: tuple[str, ...] = ()
    truncated: bool = False

    def __post_init__(self) -> None:
        short = tuple(finding[:MAX_TEXT] for finding in self.findings[:MAX_FINDINGS])
        if short != self.findings:
            msgspec.structs.force_setattr(self, "findings", short)
            msgspec.structs.force_setattr(self, "truncated", True)


class PolicyEngineError(_Explained, frozen=True, kw_only=True, tag="policy.engine_error"):
    """The engine gave no answer; calls were denied as a gateway fault."""

    engine: str
    revision: str = ""
    count: int = 1


class ConfigChanged(_Explained, frozen=True, kw_only=True, tag="config.changed"):
    """The process runs with another configuration."""

    digest_after: str
    digest_before: str = ""
    actor: str = ""


class Span(_Part, frozen=True, kw_only=True):
    """One caller's calls of a time: what a reviewer takes, notes, resolves or escalates.

    ``since`` and ``until`` are the clocks (``hlc``) of the first and the last of them. Findings
    that are nobody's call have no subject; their record's type stands in ``credential``.
    """

    subject: str
    credential: str
    since: str
    until: str


class StaffLinkMade(_Explained, frozen=True, kw_only=True, tag="staff.link_made"):
    """A link that signs a member in once was made for him."""

    actor: str
    member: str
    expires_at: str


class StaffSignedIn(Record, frozen=True, kw_only=True, tag="staff.signed_in"):
    """A session began; ``session`` is a digest by which its other records are known."""

    actor: str
    session: str
    roles: tuple[str, ...] = ()


class StaffSignedOut(Record, frozen=True, kw_only=True, tag="staff.signed_out"):
    """A session ended by the member's own wish."""

    actor: str
    session: str


class StaffRefused(_Explained, frozen=True, kw_only=True, tag="staff.refused"):
    """A member asked for what his roles do not allow; nothing was done."""

    actor: str
    action: str


class ReviewSearched(Record, frozen=True, kw_only=True, tag="review.searched"):
    """The record was searched; ``query`` as typed, ``hits`` as shown. ``since`` and ``before`` are
    clocks: where the time asked for begins, and where a further page of hits did."""

    actor: str
    query: str
    hits: int
    since: str = ""
    before: str = ""


class ReviewViewed(Record, frozen=True, kw_only=True, tag="review.viewed"):
    """A record, a run of calls or a case was read; ``ref`` says which."""

    actor: str
    what: str
    ref: str


class ReviewExported(Record, frozen=True, kw_only=True, tag="review.exported"):
    """Records were taken along: ``sha256`` is that of the file, ``since`` a clock."""

    actor: str
    query: str
    since: str = ""
    form: str
    records: int
    sha256: str = ""


class ReviewAssigned(Record, frozen=True, kw_only=True, tag="review.assigned"):
    """Somebody looks at it; an empty ``to`` gives it back."""

    actor: str
    span: Span
    to: str = ""


class ReviewNoted(_Explained, frozen=True, kw_only=True, tag="review.noted"):
    """A note."""

    actor: str
    span: Span


class ReviewResolved(_Explained, frozen=True, kw_only=True, tag="review.resolved"):
    """It was looked at, and this is what it was."""

    actor: str
    span: Span
    code: str


class CaseOpened(_Explained, frozen=True, kw_only=True, tag="case.opened"):
    """Something is looked into more closely."""

    actor: str
    case: str
    span: Span


class CaseExtended(_Explained, frozen=True, kw_only=True, tag="case.extended"):
    """More belongs to a case."""

    actor: str
    case: str
    span: Span


class CaseClosed(_Explained, frozen=True, kw_only=True, tag="case.closed"):
    """A case ended; whoever it was about may now see what was opened of his."""

    actor: str
    case: str
    code: str


class ApprovalRequested(_Explained, frozen=True, kw_only=True, tag="approval.requested"):
    """An act waits for others. ``digest`` is the SHA-256 of ``shown``, what they are asked to
    approve; ``eligible`` are those who held one of ``roles`` at this moment, without the author."""

    actor: str
    approval: str
    act: str
    digest: str
    roles: tuple[str, ...]
    needed: int
    eligible: tuple[str, ...]
    expires_at: str
    shown: str


class ApprovalGiven(Record, frozen=True, kw_only=True, tag="approval.given"):
    """One more approves what has this digest; ``lasts_until`` is how long it can then be used."""

    actor: str
    approval: str
    digest: str
    lasts_until: str = ""


class ApprovalRefused(_Explained, frozen=True, kw_only=True, tag="approval.refused"):
    """One refuses, and so the act is refused."""

    actor: str
    approval: str


class ContentRevealed(_Explained, frozen=True, kw_only=True, tag="content.revealed"):
    """Sealed content is about to be shown: written before anyone sees it."""

    actor: str
    approval: str
    case: str
    record: str
    part: str
    member: str


class ContentRange(_Part, frozen=True, kw_only=True):
    """A part of a content file, in bytes from its beginning; ``end`` is behind the last one."""

    segment: str
    start: int
    end: int


class ContentPruned(_Explained, frozen=True, kw_only=True, tag="content.pruned"):
    """Sealed content of one log whose time is over is about to be removed: written before.

    ``origin`` is the log's that the content belongs to, ``before`` the first day (UTC) that stays.
    ``pieces`` and ``bytes`` go, where ``ranges`` say; ``held`` pieces stay for a legal hold.
    """

    actor: str
    origin: str
    before: str
    pieces: int
    bytes: int
    held: int
    ranges: tuple[ContentRange, ...]


class LogOpened(Record, frozen=True, kw_only=True, tag="log.opened"):
    """A process began to write. ``clean`` says that the one before it ended with a close."""

    size: int
    clean: bool
    key_id: str


class LogRecovered(Record, frozen=True, kw_only=True, tag="log.recovered"):
    """A torn tail that nobody had been promised was cut off, or open intents were closed."""

    segment: str
    offset: int
    torn_bytes: int
    orphans: int
    kept_as: str = ""


class LogClosed(Record, frozen=True, kw_only=True, tag="log.closed"):
    """The process ended in order; ``open`` intents were still without an outcome."""

    open: int


class LogHeartbeat(Record, frozen=True, kw_only=True, tag="log.heartbeat"):
    """The log was alive, and ``open`` intents were running."""

    open: int


AnyRecord = (
    AccessIntent
    | AccessOutcome
    | AccessDenied
    | AccessRefusedSummary
    | RegistryChanged
    | RegistryTampered
    | PolicyActivated
    | PolicyRejected
    | PolicyEngineError
    | ConfigChanged
    | StaffLinkMade
    | StaffSignedIn
    | StaffSignedOut
    | StaffRefused
    | ReviewSearched
    | ReviewViewed
    | ReviewExported
    | ReviewAssigned
    | ReviewNoted
    | ReviewResolved
    | CaseOpened
    | CaseExtended
    | CaseClosed
    | ApprovalRequested
    | ApprovalGiven
    | ApprovalRefused
    | ContentRevealed
    | ContentPruned
    | LogOpened
    | LogRecovered
    | LogClosed
    | LogHeartbeat
)

_encoder = msgspec.json.Encoder(order="sorted")
_decoder: msgspec.json.Decoder[AnyRecord] = msgspec.json.Decoder(AnyRecord)


def encode(record: Record) -> bytes:
    """The leaf: sorted keys, no white space.

    Raises:
        ValueError: longer than ``MAX_RECORD_BYTES``, or text that UTF-8 cannot carry.
        TypeError: a field holds what JSON cannot.
    """
    raw = _encoder.encode(record)
    if len(raw) > MAX_RECORD_BYTES:
        raise ValueError(f"a record of {len(raw)} bytes; at most {MAX_RECORD_BYTES} are kept")
    return raw


def decode(raw: bytes) -> AnyRecord:
    """A record of a type that this version knows; fields it does not know are passed over.

    Raises:
        ValueError: another type, or not of its shape.
    """
    try:
        return _decoder.decode(raw)
    except msgspec.DecodeError as error:
        raise ValueError(f"not a record: {error}") from None
