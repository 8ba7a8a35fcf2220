"""The facts a decision is made from: the input of every rule, and nothing else.

The shape is that of an OpenID AuthZEN 1.0 evaluation (subject, action, resource, context).
Facts hold ids, closed enumerations, bounded numbers, labels and canonical timestamps; nothing the
caller wrote becomes a fact as text (invariant 11). The JSON Schema in
``policies/schemas/input.json`` is generated from these types (``gateway.core.schema``), so a rule
that reads a field which does not exist fails ``opa check --schema``.

Timestamps are ``YYYY-MM-DDTHH:MM:SSZ``: the engines differ on every other spelling of RFC 3339.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, Literal

from msgspec import Meta, Struct

__all__ = [
    "Action",
    "ActionName",
    "ActionProperties",
    "Calendar",
    "Context",
    "CredentialFacts",
    "EngagementFacts",
    "Facts",
    "Label",
    "Network",
    "OrganisationFacts",
    "Program",
    "Resource",
    "Subject",
    "SubjectProperties",
    "Targets",
    "Timestamp",
    "ToolKind",
    "VettingFacts",
    "Wire",
]

Label = Annotated[str, Meta(pattern=r"^[a-z0-9][a-z0-9_.:-]{0,63}\Z", max_length=64)]
"""A lower-case identifier: safe as a path segment, a metric label and a Rego string."""

ModelId = Annotated[str, Meta(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.:/-]{0,127}\Z", max_length=128)]
"""A catalogue id. ``UNKNOWN_MODEL`` stands for every id that the catalogue does not hold."""

Timestamp = Annotated[str, Meta(pattern=r"^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ\Z", max_length=20)]
"""RFC 3339 in UTC at whole seconds, capital T and Z."""

Level = Annotated[int, Meta(ge=0, le=9)]
Country = Annotated[str, Meta(pattern=r"^[A-Z]{2}\Z")]
"""ISO 3166-1 alpha-2, or ``ZZ`` for unknown."""

UNKNOWN_MODEL = "unknown"


class Wire(StrEnum):
    """The API surface of a call."""

    CHAT = "chat"
    RESPONSES = "responses"
    EMBEDDINGS = "embeddings"
    MESSAGES = "messages"
    COUNT_TOKENS = "count_tokens"
    MODELS = "models"


class ActionName(StrEnum):
    """What is done to the resource."""

    GENERATE = "model.generate"
    EMBED = "model.embed"
    COUNT_TOKENS = "model.count_tokens"
    LIST = "model.list"


class ToolKind(StrEnum):
    """A tool that the body offers to the model, by what it can reach; never by its name."""

    FUNCTION = "function"
    CUSTOM = "custom"
    WEB_SEARCH = "web_search"
    WEB_FETCH = "web_fetch"
    FILE_SEARCH = "file_search"
    CODE_EXECUTION = "code_execution"
    SHELL = "shell"
    COMPUTER = "computer"
    TEXT_EDITOR = "text_editor"
    MCP = "mcp"
    IMAGE_GENERATION = "image_generation"
    MEMORY = "memory"
    ADVISOR = "advisor"
    OTHER = "other"


class Program(StrEnum):
    """``access_programs.cyber`` of an OpenAI request; selects inside access, grants nothing."""

    STANDARD = "standard"
    DAYBREAK_BLUE = "daybreak_blue"
    DAYBREAK_RED = "daybreak_red"
    OTHER = "other"


class VettingFacts(Struct, frozen=True, forbid_unknown_fields=True):
    """One vetting record: what was checked, how far, and how long that holds."""

    kind: Label
    level: Level
    verified_at: Timestamp
    expires_at: Timestamp | None = None


class OrganisationFacts(Struct, frozen=True, forbid_unknown_fields=True):
    """The member's organisation. ``tiers`` are caps on what its members may hold."""

    id: Label
    status: Literal["active", "suspended", "withdrawn"]
    tiers: dict[Label, Level]
    retention: Label
    licences: tuple[Label, ...]
    agreements: tuple[Label, ...]


class CredentialFacts(Struct, frozen=True, forbid_unknown_fields=True):
    """The credential that this call presented. ``scopes`` only narrow, ``downgrade`` apart."""

    id: Label
    kind: Literal["api_key", "jwt"]
    bound: Literal["mtls", "dpop", "none"]
    expires_at: Timestamp | None
    scopes: tuple[Label, ...]
    amr: tuple[Label, ...]
    auth_time: Timestamp | None


class EngagementFacts(Struct, frozen=True, forbid_unknown_fields=True):
    """An authorised piece of work against named targets."""

    id: Label
    status: Literal["active", "suspended", "closed"]
    starts_at: Timestamp
    ends_at: Timestamp
    techniques: tuple[Label, ...]


class SubjectProperties(Struct, frozen=True, forbid_unknown_fields=True):
    """All that a rule may know of the caller."""

    status: Literal["active", "suspended", "revoked"]
    tiers: dict[Label, Level]
    roles: tuple[Label, ...]
    purposes: tuple[Label, ...]
    vetting: tuple[VettingFacts, ...]
    nationalities: tuple[Country, ...]
    residence: Country
    sponsored: bool
    organisation: OrganisationFacts
    credential: CredentialFacts
    engagement: EngagementFacts | None


class Subject(Struct, frozen=True, forbid_unknown_fields=True):
    """AuthZEN subject: a member of an organisation, or a workload of one."""

    type: Literal["member", "workload"]
    id: Label
    properties: SubjectProperties


class ActionProperties(Struct, frozen=True, forbid_unknown_fields=True):
    """What the body asks for, without a word of what it says.

    ``max_output_tokens`` is 0 where the body names no bound. ``custom_tools`` counts the tools of
    kind ``function``, ``custom`` and ``mcp``. ``remote_fetch`` is true where the body makes the
    provider fetch an address (image or file URL, remote MCP server).
    """

    wire: Wire
    stream: bool
    background: bool
    store: bool
    max_output_tokens: Annotated[int, Meta(ge=0, le=100_000_000)]
    tool_kinds: tuple[ToolKind, ...]
    custom_tools: Annotated[int, Meta(ge=0, le=100_000)]
    program: Program | None
    remote_fetch: bool


class Action(Struct, frozen=True, forbid_unknown_fields=True):
    """AuthZEN action."""

    name: ActionName
    properties: ActionProperties


class Resource(Struct, frozen=True, forbid_unknown_fields=True):
    """AuthZEN resource: one model. Its catalogue entry is ``data.models[id]``."""

    type: Literal["model"]
    id: ModelId


class Calendar(Struct, frozen=True, forbid_unknown_fields=True):
    """Wall-clock parts in UTC. ``weekday`` is 1 (Monday) to 7, as in ISO 8601."""

    weekday: Annotated[int, Meta(ge=1, le=7)]
    hour: Annotated[int, Meta(ge=0, le=23)]


class Network(Struct, frozen=True, forbid_unknown_fields=True):
    """Where the call came from, digested: the listed networks that hold the address."""

    labels: tuple[Label, ...]
    country: Country


class Targets(Struct, frozen=True, forbid_unknown_fields=True):
    """How many targets the call names, and how many lie outside the engagement."""

    named: Annotated[int, Meta(ge=0, le=100_000)]
    out_of_scope: Annotated[int, Meta(ge=0, le=100_000)]


class Context(Struct, frozen=True, forbid_unknown_fields=True):
    """Everything else. ``budgets`` is coarse state from the last settlement."""

    time: Timestamp
    calendar: Calendar
    clock: Literal["ok", "unsure"]
    network: Network
    signals: dict[Label, Annotated[int, Meta(ge=0, le=1000)]]
    targets: Targets
    budgets: dict[Label, Literal["ok", "low", "spent"]]


class Facts(Struct, frozen=True, forbid_unknown_fields=True):
    """One evaluation request."""

    subject: Subject
    action: Action
    resource: Resource
    context: Context
