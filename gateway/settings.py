"""Settings: the only reader of environment and configuration files.

One YAML file, then ``SLUICEGATE_`` variables over it (``__`` between levels, so that
``SLUICEGATE_UPSTREAMS__OPENAI__KEY`` holds a provider key). Unknown keys are refused. Everything
that is wrong is reported at once, each finding with its key's path and how to mend it; a process
starts with settings that hold, or not at all.
"""

from __future__ import annotations

import copy
import ipaddress
import itertools
import json
import os
import ssl
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal
from urllib.parse import urlsplit

import yaml
from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    SecretStr,
    ValidationError,
    model_validator,
)
from pydantic_settings import (
    BaseSettings,
    EnvSettingsSource,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    SettingsError,
)

from gateway.core.role_keys import PUBLIC, Role, RoleKeyInvalid, key_bytes

__all__ = [
    "DEMO_MARKER",
    "ConfigurationError",
    "Exporter",
    "Listener",
    "Settings",
    "Upstream",
    "child_environment",
    "exporter_secret",
    "load",
    "provider_key",
]

DEMO_MARKER = "demo.json"
"""The file that stamps a state directory as a demo's; ``serve`` refuses such a directory."""

MIN_SECRET_CHARS = 16
NOT_RETRIED = frozenset({400, 402, 403, 451})
"""Statuses of a denial that clients take for an answer."""
_NARROWEST = {4: 8, 6: 7}
"""The shortest prefix of a trusted network: 10.0.0.0/8 and fc00::/7 are private ranges."""
_MAPPED = ipaddress.IPv6Network("::ffff:0:0/96")
"""IPv4 clients on an IPv6 socket (RFC 4291, section 2.5.5.2)."""
WITHHELD = "withheld-from-this-process"
"""Stands in for a provider key where none is needed."""
_ENDPOINT = {"url": "http://127.0.0.1", "kind": "vllm"}
"""Stands in for an endpoint while the rest is validated; its kind needs no key."""
_DESTINATION: dict[str, dict[str, Any]] = {
    "syslog": {"url": "tls://stand-in.invalid:6514"},
    "webhook": {"url": "https://stand-in.invalid"},
    "otlp": {"url": "https://stand-in.invalid"},
    "s3": {
        "url": "https://stand-in.invalid",
        "bucket": "stand-in",
        "region": "stand-in",
        "access_key": WITHHELD,
        "retention_days": 1,
    },
}
"""By kind of exporter: stands in for what is wrong in one while the rest is validated."""
_PREFIX, _DELIMITER = "SLUICEGATE_", "__"

KeyPath = tuple[str | int, ...]
"""Where a key stands: the names from the top of the document, or of a section, down to it."""
Finding = tuple[str, Sequence[KeyPath]]
"""What is wrong, and the keys that it is about."""


class ConfigurationError(Exception):
    """Every finding about the configuration, in words, each starting with its key's path."""

    def __init__(self, findings: list[str]) -> None:
        super().__init__("; ".join(findings))
        self.findings = findings


class _Conflict(ValueError):
    """Keys that do not go together. Each finding stands with the keys that it is about, so that it
    can be left out where one of them is wrong by itself."""

    def __init__(self, findings: Sequence[Finding]) -> None:
        super().__init__("; ".join(message for message, _ in findings))
        self.findings = findings


def _refuse(findings: Sequence[Finding]) -> None:
    """All conflicts of a section at once, if there are any."""
    if findings:
        raise _Conflict(findings)


def _address(text: str) -> str:
    host, _, port = text.rpartition(":")
    host = host.strip("[]")
    try:
        ipaddress.ip_address(host)
    except ValueError:
        raise ValueError("write an IP address and a port, such as 127.0.0.1:8080") from None
    if not (port.isdigit() and 0 <= int(port) <= 65535):  # noqa: PLR2004 - the largest port
        raise ValueError("the port is a number from 0 to 65535")
    return text


def _network(text: str) -> str:
    try:
        network = ipaddress.ip_network(text, strict=False)
    except ValueError:
        raise ValueError(
            f"{text} is no address or network; write 192.0.2.7 or 192.0.2.0/24"
        ) from None
    mapped = network.version == 6 and network.subnet_of(_MAPPED)  # noqa: PLR2004 - IPv6
    if network.prefixlen < _NARROWEST[network.version] + (_MAPPED.prefixlen if mapped else 0):
        raise ValueError(
            f"{text} trusts every address, or so many that it comes to the same; list the proxies' "
            "own addresses"
        )
    return str(network)


def _cidr(text: str) -> str:
    try:
        return str(ipaddress.ip_network(text))
    except ValueError:
        raise ValueError(f"{text} is no network; write 10.1.2.3/32 or 10.1.2.0/24") from None


def _secret(value: SecretStr) -> SecretStr:
    text = value.get_secret_value()
    if not text.strip():
        raise ValueError("is empty; set it or leave it out")
    if len(text) < MIN_SECRET_CHARS:
        raise ValueError(f"is shorter than {MIN_SECRET_CHARS} characters; no real key is")
    if text.strip() != text or not text.isascii() or not text.isprintable():
        raise ValueError("holds white space or characters that cannot stand in a header")
    return value


def _role_key(role: Role) -> AfterValidator:
    def valid(text: str) -> str:
        try:
            key_bytes(PUBLIC, role, text)
        except RoleKeyInvalid as error:
            raise ValueError(f"{error}; make one by `sluicegate content keygen {role}`") from None
        return text.strip()

    return AfterValidator(valid)


def _denial_status(status: int) -> int:
    if status not in NOT_RETRIED:
        raise ValueError(f"{status} is retried by clients; use 400, 402, 403 or 451")
    return status


Address = Annotated[str, AfterValidator(_address)]
TrustedNetwork = Annotated[str, AfterValidator(_network)]
Secret = Annotated[SecretStr, AfterValidator(_secret)]
DenialStatus = Annotated[int, AfterValidator(_denial_status)]
ExporterName = Annotated[str, Field(pattern=r"^[a-z][a-z0-9]*([_-][a-z0-9]+)*$", max_length=40)]
Seconds = Annotated[float, Field(gt=0, le=86_400)]
Bytes = Annotated[int, Field(ge=1024, le=1 << 40)]


class _Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Tls(_Section):
    """PEM files of a listener's certificate chain and key."""

    certificate: Path
    key: Path

    @model_validator(mode="after")
    def _present(self) -> Tls:
        missing = [str(path) for path in (self.certificate, self.key) if not path.is_file()]
        if missing:
            raise ValueError(f"no such file: {', '.join(missing)}")
        return self


class Listener(_Section):
    """Where to listen. A public address needs TLS here, or a proxy in front that has it."""

    listen: Address
    tls: Tls | None = None
    behind_proxy: bool = False

    @property
    def host(self) -> str:
        """The address without port and brackets."""
        return self.listen.rpartition(":")[0].strip("[]")

    @property
    def port(self) -> int:
        """The port; 0 lets the system choose (tests)."""
        return int(self.listen.rpartition(":")[2])

    @property
    def url(self) -> str:
        """The base URL by which this machine reaches the listener."""
        return f"{'https' if self.tls else 'http'}://{self.listen}"

    @model_validator(mode="after")
    def _private_or_protected(self) -> Listener:
        public = not ipaddress.ip_address(self.host).is_loopback
        if public and self.tls is None and not self.behind_proxy:
            message = (
                f"{self.listen} is reachable from outside without TLS; set tls.certificate and "
                "tls.key, or behind_proxy: true where a proxy in front ends TLS"
            )
            raise _Conflict([(message, [("tls",), ("behind_proxy",)])])
        return self


class DataListener(Listener):
    """The data plane: the wires that defenders call.

    ``memory_budget_bytes`` bounds all request bodies held at once, in one worker.
    ``stall_timeout_s`` ends a client that reads nothing. ``drain_s`` is how long running
    exchanges may go on after a stop was asked for.
    """

    listen: Address = "127.0.0.1:8080"
    workers: Annotated[int, Field(ge=1, le=64)] = 1
    trusted_proxies: tuple[TrustedNetwork, ...] = ()
    max_body_bytes: Bytes = 16 * 1024 * 1024
    memory_budget_bytes: Bytes = 256 * 1024 * 1024
    max_connections: Annotated[int, Field(ge=1, le=1_000_000)] = 10_000
    head_timeout_s: Seconds = 15
    body_timeout_s: Seconds = 60
    stall_timeout_s: Seconds = 30
    drain_s: Seconds = 10

    @model_validator(mode="after")
    def _budget_holds_a_body(self) -> DataListener:
        if self.memory_budget_bytes < self.max_body_bytes:
            message = "memory_budget_bytes is smaller than max_body_bytes: no body fits"
            raise _Conflict([(message, [("memory_budget_bytes",), ("max_body_bytes",)])])
        return self


class ConsoleListener(Listener):
    """The console and its API."""

    listen: Address = "127.0.0.1:8081"


class OpsListener(Listener):
    """Metrics, probes and policy bundles."""

    listen: Address = "127.0.0.1:8082"


class Upstream(_Section):
    """One model endpoint. Its key is bound to this URL's scheme, host and port (invariant 7).

    ``kind`` says how the key is presented: a bearer token (``openai``, ``vllm``) or ``x-api-key``
    (``anthropic``). ``headers`` are set on every call and win over the caller's.
    """

    url: str
    kind: Literal["openai", "anthropic", "vllm"]
    key: Secret | None = None
    key_file: Path | None = None
    headers: dict[str, str] = {}
    max_connections: Annotated[int, Field(ge=1, le=100_000)] = 1_000
    connect_timeout_s: Seconds = 10
    response_timeout_s: Seconds = 600
    idle_timeout_s: Seconds = 300

    @model_validator(mode="after")
    def _reachable_and_keyed(self) -> Upstream:
        found: list[Finding] = []
        parts = urlsplit(self.url)
        url, keys = [("url",)], [("key",), ("key_file",)]
        if parts.scheme not in ("http", "https") or not parts.hostname:
            found.append(("url: write scheme and host, such as https://api.example.com", url))
        elif parts.scheme == "http" and not _is_loopback(parts.hostname):
            found.append(
                ("url: plain http would send the provider key in the clear; use https", url)
            )
        if parts.path not in ("", "/") or parts.query or parts.fragment or parts.username:
            found.append(("url: scheme, host and port only; paths are built from the wire", url))
        if self.key is not None and self.key_file is not None:
            found.append(("key and key_file: set one of them", keys))
        if self.key is None and self.key_file is None and self.kind != "vllm":
            found.append(("key: missing; set it in the environment, or set key_file", keys))
        if self.key_file is not None and not self.key_file.is_file():
            found.append((f"key_file: no such file: {self.key_file}", [("key_file",)]))
        _refuse(found)
        return self

    @property
    def origin(self) -> str:
        """Scheme, host and port: what the key may be sent to."""
        return self.url.rstrip("/")


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


class Opa(_Section):
    """A real OPA beside the gateway."""

    url: str = "http://127.0.0.1:8181"
    token: Secret | None = None
    deadline_s: Annotated[float, Field(gt=0, le=5)] = 0.25


class Policy(_Section):
    """Where the rules come from.

    ``bundle`` is a signed archive, verified with ``verification_key`` (a PEM public key).
    ``directory`` is a source for the demo and for ``--dev`` only, watched for changes.
    """

    engine: Literal["embedded", "opa"] = "embedded"
    bundle: Path | None = None
    verification_key: Path | None = None
    directory: Path | None = None
    opa: Opa = Opa()
    memo_entries: Annotated[int, Field(ge=0, le=10_000_000)] = 65_536

    @model_validator(mode="after")
    def _one_source(self) -> Policy:
        found: list[Finding] = []
        if (self.bundle is None) == (self.directory is None):
            message = "set bundle (with verification_key), or directory with --dev"
            found.append((message, [("bundle",), ("directory",)]))
        if self.bundle is not None and self.verification_key is None:
            message = "verification_key: missing; an unsigned bundle is not activated"
            found.append((message, [("verification_key",)]))
        for name, path in (("bundle", self.bundle), ("verification_key", self.verification_key)):
            if path is not None and not path.is_file():
                found.append((f"{name}: no such file: {path}", [(name,)]))
        if self.directory is not None and not self.directory.is_dir():
            message = f"directory: no such directory: {self.directory}"
            found.append((message, [("directory",)]))
        _refuse(found)
        return self


class Limits(_Section):
    """Where limits are kept. Several workers need one store between them."""

    store: Literal["memory", "redis"] = "memory"
    redis_url: Secret | None = None
    deadline_s: Annotated[float, Field(gt=0, le=5)] = 0.1
    unrestricted_on_failure: Literal["deny", "allow"] = "deny"

    @model_validator(mode="after")
    def _store_has_address(self) -> Limits:
        if self.store == "redis" and self.redis_url is None:
            message = "redis_url: missing; set it in the environment"
            raise _Conflict([(message, [("redis_url",)])])
        return self


class Attempts(_Section):
    """How many refusals a source and a credential may cause each minute."""

    source_per_minute: Annotated[int, Field(ge=1)] = 60
    source_burst: Annotated[int, Field(ge=1)] = 120
    credential_per_minute: Annotated[int, Field(ge=1)] = 30
    credential_burst: Annotated[int, Field(ge=1)] = 60


class Audit(_Section):
    """The record. ``name`` is the log's name; each process appends its shard to it."""

    name: Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9./-]{0,80}$")] = "sluicegate"
    segment_bytes: Annotated[int, Field(ge=65_536, le=1 << 32)] = 64 * 1024 * 1024
    heartbeat_s: Seconds = 5
    summary_s: Seconds = 10


class Content(_Section):
    """Sealed content: what of calls is kept for a reviewer and an approver to open together.

    ``reviewer`` and ``approver`` are the public keys of the two roles; without them a call whose
    decision asks for sealed content is refused. ``retention_days`` is how long content is kept at
    least, in days. Of an answer the first ``max_answer_bytes`` are sealed.
    """

    reviewer: Annotated[str, _role_key(Role.REVIEWER)] | None = None
    approver: Annotated[str, _role_key(Role.APPROVER)] | None = None
    retention_days: Annotated[int, Field(ge=1, le=36_500)] = 30
    max_answer_bytes: Bytes = 1024 * 1024

    @model_validator(mode="after")
    def _two_roles(self) -> Content:
        keys: list[KeyPath] = [("reviewer",), ("approver",)]
        if (self.reviewer is None) != (self.approver is None):
            missing = "reviewer" if self.reviewer is None else "approver"
            message = (
                f"{missing}: missing; content is sealed to both roles or to none: make it by "
                f"`sluicegate content keygen {missing}`"
            )
            raise _Conflict([(message, keys)])
        if self.reviewer is not None and self.approver is not None:
            pair = [
                key_bytes(PUBLIC, Role.REVIEWER, self.reviewer),
                key_bytes(PUBLIC, Role.APPROVER, self.approver),
            ]
            if pair[0] == pair[1]:
                message = "reviewer and approver are one key: one person would open everything"
                raise _Conflict([(message, keys)])
        return self

    @property
    def sealable(self) -> bool:
        """Whether content can be sealed here."""
        return self.reviewer is not None


class Egress(_Section):
    """What the gateway itself may fetch from (JWKS): private networks must be listed."""

    allowed_networks: tuple[str, ...] = ()


_EVENTS = frozenset({"heartbeats", "max_event_bytes"})
_SECRET = frozenset({"secret", "secret_file"})
_OF_EVERY_EXPORTER = frozenset({"kind", "url", "ca", "allowed_networks", "timeout_s"})
_OF_EXPORTER: dict[str, frozenset[str]] = {
    "syslog": _EVENTS | {"format", "enterprise_id"},
    "webhook": _EVENTS | _SECRET | {"format", "style", "indexer_ack"},
    "otlp": _EVENTS | _SECRET,
    "s3": _SECRET | {"bucket", "prefix", "region", "access_key", "retention_days", "piece_s"},
}
"""The keys that each kind of exporter has."""


class Exporter(_Section):
    """A destination to which all records are sent on, by a process of its own.

    ``secret`` is the token of a webhook or of an OTLP collector, or S3's secret access key.
    ``timeout_s`` bounds one attempt. ``allowed_networks`` are CIDRs that are not public and that
    this exporter may reach. An event longer than ``max_event_bytes`` is replaced by a notice of
    it. ``piece_s`` is how long records wait to become one object of an archive.
    """

    kind: Literal["syslog", "webhook", "otlp", "s3"]
    url: str
    secret: Secret | None = None
    secret_file: Path | None = None
    ca: Path | None = None
    allowed_networks: tuple[Annotated[str, AfterValidator(_cidr)], ...] = ()
    timeout_s: Annotated[float, Field(gt=0, le=300)] = 10
    heartbeats: bool = False
    format: Literal["ocsf", "record"] = "ocsf"
    max_event_bytes: Annotated[int, Field(ge=2048, le=1 << 20)] = 128 * 1024
    enterprise_id: Annotated[int, Field(ge=1, le=(1 << 32) - 1)] = 32473
    style: Literal["hec", "ndjson"] = "ndjson"
    indexer_ack: bool = False
    bucket: Annotated[str, Field(pattern=r"^([a-z0-9][a-z0-9.-]{1,61}[a-z0-9])?$")] = ""
    prefix: Annotated[str, Field(pattern=r"^([A-Za-z0-9_-]+/)*$", max_length=200)] = ""
    region: Annotated[str, Field(pattern=r"^[a-z0-9-]{0,40}$")] = ""
    access_key: Annotated[str, Field(pattern=r"^[A-Za-z0-9_.-]{0,128}$")] = ""
    retention_days: Annotated[int, Field(ge=0, le=36_500)] = 0
    piece_s: Seconds = 300

    @model_validator(mode="after")
    def _fits_its_kind(self) -> Exporter:
        keys = [("secret",), ("secret_file",)]
        found: list[Finding] = [
            (f"{name}: no key of an exporter of kind {self.kind}", [(name,)])
            for name in sorted(self.model_fields_set - _OF_EVERY_EXPORTER - _OF_EXPORTER[self.kind])
        ]
        wrong = _destination_fault(self.url, self.kind)
        if wrong:
            found.append((f"url: {wrong}", [("url",)]))
        if self.secret is not None and self.secret_file is not None:
            found.append(("secret and secret_file: set one of them", keys))
        needed = self.kind == "s3" or (self.kind == "webhook" and self.style == "hec")
        if needed and self.secret is None and self.secret_file is None:
            found.append(("secret: missing; set it in the environment, or set secret_file", keys))
        if self.secret_file is not None and not self.secret_file.is_file():
            found.append((f"secret_file: no such file: {self.secret_file}", [("secret_file",)]))
        if self.kind == "s3":
            found += [
                (f"{name}: missing; an archive in S3 needs it", [(name,)])
                for name in ("bucket", "region", "access_key", "retention_days")
                if not getattr(self, name)
            ]
        if self.indexer_ack and self.style != "hec":
            found.append(("indexer_ack: only with style: hec", [("indexer_ack",)]))
        if self.ca is not None:
            try:
                ssl.create_default_context(cafile=self.ca)
            except OSError:  # ssl.SSLError is one
                found.append((f"ca: {self.ca} holds no certificates in PEM", [("ca",)]))
        _refuse(found)
        return self


def _destination_fault(url: str, kind: str) -> str:
    """What is wrong with where an exporter sends to; empty where nothing is."""
    try:
        parts = urlsplit(url)
        host, port = parts.hostname, parts.port
    except ValueError:
        return "not a URL"
    if parts.username is not None or parts.fragment:
        return "no user and no fragment; a token is the secret"
    if kind == "syslog":
        bare = not (parts.path or parts.query)
        right = parts.scheme == "tls" and bool(host) and port is not None and bare
        return "" if right else "write tls://HOST:PORT, such as tls://logs.example.org:6514"
    if not host or not (parts.scheme == "https" or (parts.scheme == "http" and _is_loopback(host))):
        return "write https://HOST/…; plain http would show the record to whoever listens"
    if kind == "s3" and (parts.path not in ("", "/") or parts.query):
        return "scheme, host and port of the service; the bucket is a key of its own"
    return ""


class Settings(BaseSettings):
    """All of it. ``registry_max_age_s``: with no word from the control process for so long,
    restricted models are refused."""

    model_config = SettingsConfigDict(
        env_prefix="SLUICEGATE_", env_nested_delimiter="__", frozen=True, extra="forbid"
    )

    state_dir: Path = Path("sluicegate-data")
    data: DataListener = DataListener()
    console: ConsoleListener = ConsoleListener()
    ops: OpsListener = OpsListener()
    upstreams: Annotated[dict[str, Upstream], Field(min_length=1)]
    policy: Policy
    limits: Limits = Limits()
    attempts: Attempts = Attempts()
    audit: Audit = Audit()
    content: Content = Content()
    egress: Egress = Egress()
    exporters: dict[ExporterName, Exporter] = {}
    registry_max_age_s: Seconds = 30
    denial_status: dict[Literal["chat", "responses", "openai", "anthropic"], DenialStatus] = {}
    appeal: Annotated[str, Field(max_length=120)] = "your organisation's administrator"
    log_level: Literal["debug", "info", "warning", "error"] = "info"

    @model_validator(mode="after")
    def _consistent(self) -> Settings:
        found: list[Finding] = []
        if self.data.workers > 1 and self.limits.store == "memory":
            message = (
                f"data.workers is {self.data.workers} and limits.store is memory: every worker "
                "would grant the whole limit; set limits.store: redis, or data.workers: 1"
            )
            found.append((message, [("data", "workers"), ("limits", "store")]))
        needed = self.data.max_body_bytes + self.content.max_answer_bytes
        if self.content.sealable and self.data.memory_budget_bytes < needed:
            message = (
                "data.memory_budget_bytes is smaller than data.max_body_bytes and "
                "content.max_answer_bytes together: no large call could be sealed"
            )
            places = [("data", "memory_budget_bytes"), ("content", "max_answer_bytes")]
            found.append((message, places))
        listeners = (("data", self.data), ("console", self.console), ("ops", self.ops))
        for (one, first), (other, second) in itertools.combinations(listeners, 2):
            if _overlap(first, second):
                message = (
                    f"{one}.listen and {other}.listen are one address, {second.listen}; "
                    "give each a port of its own"
                )
                found.append((message, [(one, "listen"), (other, "listen")]))
        _refuse(found)
        return self

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Only what ``load`` merged: it reads file and environment itself, to report both."""
        del settings_cls, env_settings, dotenv_settings, file_secret_settings
        return (init_settings,)


def _overlap(first: Listener, second: Listener) -> bool:
    """Whether both would listen for the same connections: the system lets both bind, at first."""
    everywhere = any(ipaddress.ip_address(each.host).is_unspecified for each in (first, second))
    return first.port == second.port != 0 and (first.host == second.host or everywhere)


def load(
    path: Path | None, *, dev: bool = False, demo: bool = False, provider_keys: bool = True
) -> Settings:
    """Read settings from a YAML file and the environment.

    Args:
        path: the configuration file, or ``None`` for environment and defaults alone.
        dev: allows ``policy.directory``.
        demo: allows a state directory that is stamped as a demo's.
        provider_keys: whether they are read, and must be there; a command that forwards nothing
            does without.

    Raises:
        ConfigurationError: with every finding.
    """
    written = _read_yaml(path) if path is not None else {}
    variables = _read_environment()
    document = copy.deepcopy(_merge(written, variables))
    if not provider_keys:
        _withhold_provider_keys(document)
    outside = _outside(document, dev=dev, demo=demo)  # first: what is wrong is taken out below
    settings, findings = _validate(document)
    told = [message + _origin(paths, variables, written) for message, paths in findings] + outside
    if settings is None or told:
        raise ConfigurationError(told)
    return settings


def _outside(document: dict[str, Any], *, dev: bool, demo: bool) -> list[str]:
    """What depends on more than the document: on how we were started, and on files' content."""
    findings = []
    policy, upstreams = document.get("policy"), document.get("upstreams")
    if isinstance(policy, dict) and policy.get("directory") is not None and not dev:
        findings.append(
            "policy.directory is a source for --dev only: anyone who can write there changes who "
            "gets in; set policy.bundle and policy.verification_key"
        )
    state_dir = _state_dir(document)
    if (state_dir / DEMO_MARKER).exists() and not demo:
        findings.append(
            f"state_dir {state_dir} was made by `sluicegate demo`: its keys were shown "
            "on a screen; choose another directory"
        )
    for name, upstream in upstreams.items() if isinstance(upstreams, dict) else ():
        key_file = upstream.get("key_file") if isinstance(upstream, dict) else None
        if isinstance(key_file, str) and Path(key_file).is_file():  # else it is told already
            try:
                _key_in(Path(key_file))
            except ValueError as error:
                findings.append(f"upstreams.{name}.key_file: {error}")
    exporters = document.get("exporters")
    for name, exporter in exporters.items() if isinstance(exporters, dict) else ():
        secret_file = exporter.get("secret_file") if isinstance(exporter, dict) else None
        if isinstance(secret_file, str) and Path(secret_file).is_file():
            try:
                _key_in(Path(secret_file))
            except ValueError as error:
                findings.append(f"exporters.{name}.secret_file: {error}")
    return findings


def configured_state_dir(path: Path) -> Path:
    """The state directory that a configuration file and the environment name, whatever else is
    wrong in them.

    Raises:
        ConfigurationError: the file is no YAML, or the environment names what there is not.
    """
    return _state_dir(_merge(_read_yaml(path), _read_environment()))


def _state_dir(document: dict[str, Any]) -> Path:
    named = document.get("state_dir")
    return Path(str(named)) if named else Settings.model_fields["state_dir"].default


def _withhold_provider_keys(document: dict[str, Any]) -> None:
    """Put a stand-in, which keeps the settings valid, in the place of every key."""
    upstreams = document.get("upstreams")
    for upstream in upstreams.values() if isinstance(upstreams, dict) else ():
        if isinstance(upstream, dict):
            upstream.pop("key_file", None)
            upstream["key"] = WITHHELD
    exporters = document.get("exporters")
    for exporter in exporters.values() if isinstance(exporters, dict) else ():
        if isinstance(exporter, dict) and exporter.get("kind") != "syslog":
            exporter.pop("secret_file", None)
            exporter["secret"] = WITHHELD


def _validate(document: dict[str, Any]) -> tuple[Settings | None, list[Finding]]:
    """The settings, or all findings at once.

    Checks between keys run only where each key alone is right. So what is wrong gives way to a
    default or a stand-in, and the rest is validated again, until nothing is wrong.

    Args:
        document: what is wrong is replaced in it.
    """
    findings: list[Finding] = []
    replaced: set[KeyPath] = set()
    while True:
        try:
            return Settings(**document), findings
        except ValidationError as error:
            wrong = [finding for entry in error.errors() for finding in _findings(entry)]
        fresh = [finding for finding in wrong if not replaced.issuperset(finding[1])]
        if not fresh:
            return None, findings
        # A check between keys says nothing where one of them is not as it was written.
        findings += [finding for finding in fresh if not _touches(finding[1], replaced)]
        for _, paths in fresh:
            replaced.update(paths)
            for path in paths:
                _replace(document, path)


def _findings(entry: Any) -> list[Finding]:
    """What one error of pydantic's says."""
    path = entry["loc"]
    place = ".".join(str(part) for part in path) or "settings"
    conflict = entry.get("ctx", {}).get("error")
    if isinstance(conflict, _Conflict):
        return [
            (f"{place}: {message}", [(*path, *key) for key in keys])
            for message, keys in conflict.findings
        ]
    message = str(entry["msg"]).removeprefix("Value error, ")
    if entry["type"] == "extra_forbidden":
        message = "no such key; check its spelling"
    elif entry["type"] == "missing":
        message = "missing; it has no default"
    return [(f"{place}: {message}", [path])]


def _touches(paths: Iterable[KeyPath], others: Iterable[KeyPath]) -> bool:
    """Whether one of ``paths`` is, leads to, or stands below one of ``others``."""
    return any(
        all(part == other for part, other in zip(path, each, strict=False))
        for path, each in itertools.product(paths, others)
    )


def _replace(document: dict[str, Any], path: KeyPath) -> None:
    """Put something that holds in the place of a key: its default, or a stand-in where there is
    none, or where the default would set off a check that speaks of what was not written."""
    match path:
        case ("upstreams",):
            document["upstreams"] = {"stand-in": dict(_ENDPOINT)}
        case ("upstreams", name):
            document["upstreams"][name] = dict(_ENDPOINT)
        case ("upstreams", name, "url" | "kind" as field):
            document["upstreams"][name][field] = _ENDPOINT[field]
        case ("upstreams", name, "key" | "key_file" as field):
            document["upstreams"][name].pop(field, None)
            document["upstreams"][name]["kind"] = _ENDPOINT["kind"]
        case ("policy",) | ("policy", "bundle" | "verification_key" | "directory"):
            document["policy"] = {"directory": os.curdir}
        case ("limits", "redis_url"):
            document["limits"]["redis_url"] = WITHHELD
        case ("data" | "console" | "ops" as listener, "tls" | "behind_proxy", *_):
            document[listener].pop("tls", None)
            document[listener]["behind_proxy"] = True
        case ("exporters", str(name), str(field)) if field in _OF_EVERY_EXPORTER | _SECRET or (
            field in _OF_EXPORTER["s3"]
        ):
            _mend_exporter(document["exporters"], name, field)
        case ("exporters", str(name), "[key]"):
            document["exporters"].pop(name)
        case _:
            _take_out(document, path)


def _mend_exporter(exporters: Any, name: str, field: str) -> None:
    """Put what holds for its kind in the place of one key of an exporter."""
    exporter = exporters.get(name)
    if exporter is None:  # given up for another of its keys
        return
    stand_in = _DESTINATION.get(str(exporter.get("kind")))
    if field == "kind" or stand_in is None:
        exporters.pop(name)
        return
    exporter.pop(field, None)
    if field in stand_in:
        exporter[field] = stand_in[field]
    elif field in _SECRET and exporter["kind"] != "syslog":
        exporter.pop("secret_file", None)
        exporter["secret"] = WITHHELD


def _take_out(document: Any, path: KeyPath) -> None:
    """Take out the key at ``path``, or the key of the list that ``path`` leads into."""
    for part, following in itertools.zip_longest(path, path[1:]):
        below = document.get(part)
        if following is None or not isinstance(below, dict):
            document.pop(part, None)
            return
        document = below


def _origin(paths: Sequence[KeyPath], variables: dict[str, Any], written: dict[str, Any]) -> str:
    """The variables that a finding comes from, for whoever looks for it in the file in vain.

    Args:
        paths: the keys that the finding is about. One that is missing counts as what it is
            missing from.
        variables: what the environment holds.
        written: what the file holds.
    """
    sources = []
    for path in paths:
        if _holds(variables, path):
            sources.append(path)
        elif _holds(variables, path[:-1]) and not _holds(written, path[:-1]):
            sources.append(path[:-1])
    named = [name for name, place in _our_variables() if _touches([place], sources)]
    return f" (from the environment: {', '.join(named)})" if named else ""


def _holds(document: Any, path: KeyPath) -> bool:
    for part in path:
        if not isinstance(document, dict) or part not in document:
            return isinstance(document, list)  # a place in a list counts as the list
        document = document[part]
    return True


def _merge(document: dict[str, Any], over: dict[str, Any]) -> dict[str, Any]:
    merged = dict(document)
    for key, value in over.items():
        below = merged.get(key)
        if isinstance(below, dict) and isinstance(value, dict):
            value = _merge(below, value)  # noqa: PLW2901 - the merged value takes its place
        merged[key] = value
    return merged


def provider_key(upstream: Upstream) -> str | None:
    """The upstream's key; ``None`` for a self-hosted one without.

    Raises:
        ValueError: the file holds no acceptable key.
    """
    if upstream.key is not None:
        return upstream.key.get_secret_value()
    return None if upstream.key_file is None else _key_in(upstream.key_file)


def exporter_secret(exporter: Exporter) -> str | None:
    """The exporter's token or secret key, if it has one.

    Raises:
        ValueError: the file holds no acceptable secret.
    """
    if exporter.secret is not None:
        return exporter.secret.get_secret_value()
    return None if exporter.secret_file is None else _key_in(exporter.secret_file)


def _key_in(path: Path) -> str:
    """The key in a file; as ``provider_key``."""
    try:
        text = path.read_text("ascii")
    except OSError as error:
        raise ValueError(str(error.strerror)) from None
    except UnicodeDecodeError:
        raise ValueError("holds characters that cannot stand in a header") from None
    return _secret(SecretStr(text.strip())).get_secret_value()


def child_environment(*, keep_provider_keys: bool, exporter: str = "") -> dict[str, str]:
    """The environment of a child process: the control process gets no provider key, and of the
    exporters' secrets each gets its own, and no other process any.

    Where keys are withheld, a stand-in keeps the settings valid.

    Args:
        keep_provider_keys: whether the child forwards calls.
        exporter: the exporter that the child is.
    """
    environment = dict(os.environ)
    for name in environment:
        match name.upper().split(_DELIMITER):
            case ["SLUICEGATE_UPSTREAMS", *_, "KEY"] if not keep_provider_keys:
                environment[name] = WITHHELD
            case ["SLUICEGATE_EXPORTERS", whose, "SECRET"] if whose.lower() != exporter:
                environment[name] = WITHHELD
    return environment


def environment_value(name: str) -> str | None:
    """One variable, for the demo's ``--upstream`` keys."""
    return os.environ.get(name)


def _our_variables() -> Iterator[tuple[str, KeyPath]]:
    """Each variable that may be ours, and the key that it sets. What else begins like ours, such as
    what Kubernetes sets for a service of our name, has no ``__`` and is no key."""
    for name in sorted(os.environ):
        path = tuple(name[len(_PREFIX) :].lower().split(_DELIMITER))
        if name.upper().startswith(_PREFIX) and (len(path) > 1 or path[0] in Settings.model_fields):
            yield name, path


def _read_environment() -> dict[str, Any]:
    source = EnvSettingsSource(Settings)
    findings = []
    for name, (section, *below) in _our_variables():
        field = Settings.model_fields.get(str(section))
        if field is None:
            findings.append(f"{name}: no such key; check its spelling")
        elif not below and source.field_is_complex(field) and not _is_json(os.environ[name]):
            findings.append(f"{name}: its value is no JSON; or set single keys, as {name}__KEY")
    if findings:
        raise ConfigurationError(findings)
    try:
        return source()
    except SettingsError as error:  # names the section; its cause would quote the value
        raise ConfigurationError([f"environment: {error}"]) from None


def _is_json(text: str) -> bool:
    try:
        json.loads(text)
    except ValueError:
        return False
    return True


class _StrictLoader(yaml.SafeLoader):
    """YAML without the surprise of a key that is written twice."""


def _construct_mapping(loader: _StrictLoader, node: yaml.MappingNode) -> dict[Any, Any]:
    seen: dict[Any, Any] = {}
    for key_node, value_node in node.value:
        key = loader.construct_object(key_node, deep=True)
        line = key_node.start_mark.line + 1
        if not isinstance(key, str | int | float | bool | None):
            raise ConfigurationError([f"line {line}: a key is a plain word"])
        if key in seen:
            raise ConfigurationError([f"{key}: written twice (line {line}); keep one"])
        seen[key] = loader.construct_object(value_node, deep=True)
    return seen


_StrictLoader.add_constructor(yaml.resolver.BaseResolver.DEFAULT_MAPPING_TAG, _construct_mapping)


def _read_yaml(path: Path) -> dict[str, Any]:
    try:
        document = yaml.load(path.read_text("utf-8"), Loader=_StrictLoader)  # noqa: S506 - a SafeLoader
    except OSError as error:
        raise ConfigurationError([f"{path}: {error.strerror}"]) from None
    except UnicodeDecodeError:
        raise ConfigurationError([f"{path}: not UTF-8 text"]) from None
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f" line {mark.line + 1}" if mark else ""
        problem = getattr(error, "problem", None) or "not YAML"
        raise ConfigurationError([f"{path}{where}: {problem}"]) from None
    if document is None:
        return {}
    if not isinstance(document, dict):
        raise ConfigurationError([f"{path}: the top level is a mapping of keys"])
    return {str(key): value for key, value in document.items()}
