"""Settings hold, or every finding is told at once: in words, with its key's path, no secret."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from importlib.resources import files
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import HealthCheck, given
from hypothesis import settings as examples
from hypothesis import strategies as st

from gateway.core.role_keys import PRIVATE, PUBLIC, Role, key_text
from gateway.settings import (
    ConfigurationError,
    Settings,
    child_environment,
    exporter_secret,
    load,
    provider_key,
)

KEY = "sk-canary-0123456789abcdef"
GOOD: dict[str, Any] = {
    "upstreams": {"openai": {"url": "https://api.example.com", "kind": "openai", "key": KEY}},
}
NAMES = st.sampled_from(
    ["listen", "tls", "behind_proxy", "workers", "url", "kind", "key", "key_file", "bundle",
     "directory", "store", "redis_url", "opa", "token", "secret", "bucket", "a"]
)  # fmt: skip
Read = Callable[..., Settings]


@pytest.fixture
def read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Read:
    """Load a document, by default a good one with these sections over it."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "rules").mkdir()

    def load_it(text: str | bytes | None = None, dev: bool = True, **sections: Any) -> Settings:
        path = tmp_path / "sluicegate.yaml"
        document = {**GOOD, "policy": {"directory": "rules"}, **sections}
        if text is None:
            text = yaml.safe_dump(document)
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        return load(path, dev=dev)

    return load_it


def findings(read: Read, *args: Any, **sections: Any) -> list[str]:
    with pytest.raises(ConfigurationError) as refused:
        read(*args, **sections)
    for finding in refused.value.findings:
        assert KEY not in finding
    return refused.value.findings


def test_control_a_good_configuration_loads(read: Read) -> None:
    settings = read()
    assert settings.data.listen == "127.0.0.1:8080"
    assert provider_key(settings.upstreams["openai"]) == KEY
    assert KEY not in repr(settings)


def test_everything_that_is_wrong_is_told_at_once_with_its_path(read: Read) -> None:
    found = findings(
        read,
        dev=False,
        data={
            "listen": "0.0.0.0:8080",
            "workers": 3,
            "trusted_proxies": ["0.0.0.0/0", "10.0.0.300"],
            "max_body_bytes": 12,
            "head_timeout_s": "soon",
        },
        console={"listen": "localhost:8081"},
        ops={"listen": "127.0.0.1:99999", "colour": "red"},
        upstreams={
            "openai": {"url": "https://api.example.com", "kind": "openai", "key": ""},
            "anthropic": {"url": "http://api.example.com", "kind": "anthropic", "key": KEY},
            "vllm": {"url": "https://x.example.com/v1", "kind": "vllm", "key": "short"},
        },
        policy={"engine": "opal", "bundle": "policies.tar.gz"},
        limts={"store": "redis"},
        denial_status={"chat": 429},
        log_level="loud",
    )
    expected = {
        "data": "reachable from outside without TLS",
        "data.trusted_proxies.0": "trusts every address",
        "data.trusted_proxies.1": "no address or network",
        "data.max_body_bytes": "1024",
        "data.head_timeout_s": "number",
        "console.listen": "write an IP address and a port",
        "ops.listen": "0 to 65535",
        "ops.colour": "no such key",
        "upstreams.openai.key": "is empty",
        "upstreams.anthropic": "in the clear",
        "upstreams.vllm.key": "shorter than 16 characters",
        "policy.engine": "'embedded' or 'opa'",
        "policy": "verification_key: missing",
        "limts": "no such key",
        "log_level": "'debug'",
        "denial_status.chat": "429 is retried by clients",
    }
    for path, words in expected.items():
        assert any(each.startswith(f"{path}: ") and words in each for each in found), (
            f"{path}: {words} not in {found}"
        )
    assert not [each for each in found if "Input should be" in each and "\n" in each]


def test_a_finding_about_several_keys_is_told_like_any_other(read: Read) -> None:
    found = findings(read, data={"workers": 2, "drain_s": -1})
    assert found[0].startswith("data.drain_s: ")
    assert found[1].startswith("settings: data.workers is 2 and limits.store is memory")


MISTAKES: dict[str, tuple[str, Any, str]] = {
    "a field": ("data.drain_s", -1, "data.drain_s: "),
    "two keys of a section": (
        "data.memory_budget_bytes",
        2048,
        "data: memory_budget_bytes is smaller than max_body_bytes",
    ),
    "two sections": ("data.workers", 2, "settings: data.workers is 2 and limits.store is memory"),
    "two listeners": ("data.listen", "127.0.0.1:8082", "settings: data.listen and ops.listen are"),
    "a public listener": ("console.listen", "192.0.2.1:80", "console: 192.0.2.1:80 is reachable"),
    "half a certificate": ("ops.tls", {"certificate": "c.pem"}, "ops.tls.key: missing"),
    "an endpoint": (
        "upstreams.plain",
        {"url": "http://x.example/v1", "kind": "openai"},
        "upstreams.plain: url: plain http",
    ),
    "the same endpoint's path": (
        "upstreams.path",
        {"url": "https://x.example/v1", "kind": "openai", "key_file": "none"},
        "upstreams.path: url: scheme, host and port only",
    ),
    "an endpoint without a kind": (
        "upstreams.kindless",
        {"url": "https://x.example", "key": KEY},
        "upstreams.kindless.kind: missing",
    ),
    "a key file": (
        "upstreams.filed",
        {"url": "https://x.example", "kind": "openai", "key_file": "short-key"},
        "upstreams.filed.key_file: is shorter",
    ),
    "the policy's source": ("policy.bundle", "none.tar.gz", "policy: bundle: no such file"),
    "a source for --dev": ("policy.directory", "rules", "policy.directory is a source for --dev"),
    "a demo's directory": ("state_dir", "demo-state", "state_dir demo-state was made by"),
    "a status": ("denial_status", {"chat": 429}, "denial_status.chat: 429"),
    "what is no section": ("audit", 7, "audit: "),
    "a key that there is not": ("limits.tls", 1, "limits.tls: no such key"),
}


@given(chosen=st.sets(st.sampled_from(sorted(MISTAKES)), min_size=1))
@examples(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
def test_of_any_mistakes_together_each_is_told(
    read: Read, tmp_path: Path, chosen: set[str]
) -> None:
    (tmp_path / "short-key").write_text("short")
    (tmp_path / "demo-state").mkdir(exist_ok=True)
    (tmp_path / "demo-state" / "demo.json").write_text("{}")
    document: dict[str, Any] = {"upstreams": dict(GOOD["upstreams"])}
    for path, value, _ in map(MISTAKES.__getitem__, sorted(chosen)):
        section, _, key = path.partition(".")
        if key:
            document.setdefault(section, {})[key] = value
        else:
            document[section] = value
    found = findings(read, dev=False, **document)
    for name in chosen:
        assert any(each.startswith(MISTAKES[name][2]) for each in found), (name, found)
    assert len(set(found)) == len(found)


def test_no_check_speaks_of_a_value_that_was_not_written(read: Read) -> None:
    """A key that is wrong gives way to its default, which is not what anybody meant."""
    (listen,) = findings(read, data={"listen": "127.0.0.1:8081"}, console={"listen": "x"})
    assert listen.startswith("console.listen: ")
    (store,) = findings(read, data={"workers": 2}, limits={"store": "reddis"})
    assert store.startswith("limits.store: ")
    (key,) = findings(read, ops={"listen": "0.0.0.0:1", "tls": {"certificate": "c.pem"}})
    assert key.startswith("ops.tls.key: ")


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda below: st.lists(below, max_size=2) | st.dictionaries(NAMES, below, max_size=3),
    max_leaves=12,
)


@given(document=st.dictionaries(st.sampled_from(sorted(Settings.model_fields)), VALUES))
@examples(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
def test_a_document_of_any_form_is_read_or_told(read: Read, document: dict[str, Any]) -> None:
    with suppress(ConfigurationError):
        read(yaml.safe_dump(document))


@pytest.mark.parametrize(
    ("variables", "path", "named"),
    [
        ({"UPSTREAMS__VLLM__URL": "http://x.example", "UPSTREAMS__VLLM__KIND": "vllm"},
         "upstreams.vllm: ", "UPSTREAMS__VLLM__URL"),
        ({"UPSTREAMS__VLLM__KEY": KEY}, "upstreams.vllm.url: missing", "UPSTREAMS__VLLM__KEY"),
        ({"UPSTREAMS__OPENAI__KIND": "opnai"}, "upstreams.openai.kind: ",
         "UPSTREAMS__OPENAI__KIND"),
        ({"UPSTREAMS": '{"openai": {"url": 4}}'}, "upstreams.openai.url: ", "UPSTREAMS"),
        ({"LOG_LEVEL": "loud"}, "log_level: ", "LOG_LEVEL"),
        ({"DATA__TRUSTED_PROXIES": '["x"]'}, "data.trusted_proxies.0: ", "DATA__TRUSTED_PROXIES"),
        ({"DATA__WORKERS": "2"}, "settings: data.workers is 2", "DATA__WORKERS"),
    ],
)  # fmt: skip
def test_what_the_environment_has_wrong_is_told_with_its_variable(
    read: Read,
    monkeypatch: pytest.MonkeyPatch,
    variables: dict[str, str],
    path: str,
    named: str,
) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(f"SLUICEGATE_{name}", value)
    found = findings(read)
    (finding,) = [each for each in found if each.startswith(path)]
    assert finding.endswith(f" (from the environment: SLUICEGATE_{named})")


def test_control_a_mistake_of_the_file_names_no_variable(
    read: Read, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SLUICEGATE_UPSTREAMS__VLLM__KEY", KEY)
    monkeypatch.setenv("SLUICEGATE_DATA__DRAIN_S", "4")
    found = findings(
        read, upstreams={"vllm": {"url": "https://x.example"}}, data={"head_timeout_s": -1}
    )
    assert {each.partition(":")[0] for each in found} == {
        "upstreams.vllm.kind",
        "data.head_timeout_s",
    }
    assert not [each for each in found if "SLUICEGATE_" in each]


@pytest.mark.parametrize(
    "network",
    ["0.0.0.0/0", "::/0", "0.0.0.0/1", "128.0.0.0/1", "::ffff:0:0/96", "2000::/3", "0.0.0.0/7"],
)
def test_k4_a_trusted_proxy_of_everything_is_refused(read: Read, network: str) -> None:
    (finding,) = findings(read, data={"trusted_proxies": [network]})
    assert finding.startswith("data.trusted_proxies.0: ")
    assert "list the proxies' own addresses" in finding


@pytest.mark.parametrize("network", ["10.0.0.0/8", "fc00::/7", "192.0.2.7", "::ffff:10.0.0.0/104"])
def test_control_a_private_network_may_be_trusted(read: Read, network: str) -> None:
    assert read(data={"trusted_proxies": [network]}).data.trusted_proxies


@pytest.mark.parametrize(
    ("secret", "words"),
    [
        ("", "is empty"),
        ("    ", "is empty"),
        ("changeme", "shorter than"),
        (f" {KEY}", "white space"),
        (f"{KEY}\r\nx-admin: 1", "white space"),
        ("schlüssel-0123456789", "characters that cannot stand"),
    ],
)
def test_k21_empty_short_and_unusable_secrets_are_refused(
    read: Read, tmp_path: Path, secret: str, words: str
) -> None:
    upstream = {"url": "https://api.example.com", "kind": "openai"}
    (finding,) = findings(read, upstreams={"openai": {**upstream, "key": secret}})
    assert finding.startswith("upstreams.openai.key: ")
    assert words in finding
    file = tmp_path / "key"
    file.write_text(secret)
    if secret.strip() == secret:  # white space at a file's ends is an editor's
        (finding,) = findings(read, upstreams={"openai": {**upstream, "key_file": str(file)}})
        assert finding.startswith("upstreams.openai.key_file: ")


def test_k21_an_empty_redis_url_or_opa_token_is_refused(read: Read) -> None:
    found = findings(
        read,
        limits={"store": "redis", "redis_url": ""},
        policy={"directory": "rules", "engine": "opa", "opa": {"token": "x"}},
    )
    assert {each.partition(":")[0] for each in found} == {"limits.redis_url", "policy.opa.token"}


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("log_level: info\nlog_level: debug\n", "log_level: written twice (line 2)"),
        ("data:\n  workers: 1\n  workers: 2\n", "workers: written twice (line 3)"),
        ("data: [1\n", "line 2"),
        ("- data\n", "the top level is a mapping"),
        ("just words", "the top level is a mapping"),
        ("? [a, b]\n: c\n", "line 1: a key is a plain word"),
        ("state_dir: !!python/object/apply:os.getcwd []\n", "line 1"),
        (b"state_dir: \xff\xfe\n", "not UTF-8"),
        ("data: 7\n", "data: "),
        ("", "upstreams: missing"),
    ],
)
def test_a_file_that_is_not_what_it_should_be_is_told_in_words(
    read: Read, text: str | bytes, words: str
) -> None:
    assert any(words in each for each in findings(read, text))


def test_a_missing_file_is_told(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="No such file"):
        load(tmp_path / "nowhere.yaml")


def test_the_environment_comes_over_the_file(read: Read, monkeypatch: pytest.MonkeyPatch) -> None:
    other = "sk-from-the-environment"
    monkeypatch.setenv("SLUICEGATE_UPSTREAMS__OPENAI__KEY", other)
    monkeypatch.setenv("SLUICEGATE_DATA__LISTEN", "127.0.0.1:9080")
    monkeypatch.setenv("SLUICEGATE_PORT_8080_TCP", "what Kubernetes sets for a service")
    settings = read(data={"listen": "127.0.0.1:8080", "drain_s": 3})
    assert provider_key(settings.upstreams["openai"]) == other
    assert (settings.data.listen, settings.data.drain_s) == ("127.0.0.1:9080", 3)


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("SLUICEGATE_LIMTS__STORE", "redis", "SLUICEGATE_LIMTS__STORE: no such key"),
        ("SLUICEGATE_LIMITS__STOER", "redis", "limits.stoer: no such key"),
        ("SLUICEGATE_DATA__WORKERS", "many", "data.workers: "),
        ("SLUICEGATE_DATA", "{not json", "SLUICEGATE_DATA: its value is no JSON"),
        ("SLUICEGATE_UPSTREAMS__OPENAI__KEY", "", "upstreams.openai.key: is empty"),
    ],
)
def test_k20_a_mistake_in_the_environment_is_told_without_its_value(
    read: Read, monkeypatch: pytest.MonkeyPatch, name: str, value: str, words: str
) -> None:
    monkeypatch.setenv(name, value)
    found = findings(read)
    assert any(words in each for each in found), found
    assert not [each for each in found if "not json" in each]


def test_what_is_not_for_production_is_refused_there(read: Read, tmp_path: Path) -> None:
    (finding,) = findings(read, dev=False)
    assert finding.startswith("policy.directory is a source for --dev only")
    state = tmp_path / "demo-state"
    state.mkdir()
    (state / "demo.json").write_text("{}")
    (finding,) = findings(read, state_dir=str(state))
    assert "was made by `sluicegate demo`" in finding


def test_content_is_sealed_to_two_different_roles_or_to_none(read: Read) -> None:
    keys = {role.value: key_text(PUBLIC, role, role.encode() * 4) for role in Role}
    assert not read().content.sealable
    content = read(content=keys).content
    assert content.sealable
    assert (content.retention_days, content.max_answer_bytes) == (30, 1 << 20)
    for missing in Role:
        alone = {name: key for name, key in keys.items() if name != missing}
        (finding,) = findings(read, content=alone)
        assert finding.startswith(f"content: {missing}: missing")
        assert f"content keygen {missing}" in finding
    same = {role.value: key_text(PUBLIC, role, bytes(32)) for role in Role}
    (finding,) = findings(read, content=same)
    assert "one key" in finding
    swapped = dict(zip(keys, reversed(keys.values()), strict=True))
    told = findings(read, content=swapped)
    assert [each.partition(":")[0] for each in told] == ["content.reviewer", "content.approver"]


def test_a_role_key_that_is_none_is_refused_and_a_private_one_not_repeated(read: Read) -> None:
    keys = {role.value: key_text(PUBLIC, role, role.encode() * 4) for role in Role}
    secret = key_text(PRIVATE, Role.REVIEWER, bytes(32))
    (finding,) = findings(read, content=keys | {"reviewer": secret})
    assert "this is the private key" in finding
    assert secret[20:] not in finding
    (finding,) = findings(read, content=keys | {"approver": keys["approver"][:-3]})
    assert "cut or mistyped" in finding
    full = {"memory_budget_bytes": 1 << 24, "max_body_bytes": 1 << 24}
    assert read(data=full)
    (finding,) = findings(read, content=keys, data=full)
    assert finding.startswith("settings: data.memory_budget_bytes is smaller")


def test_the_commented_file_of_init_lacks_exactly_what_it_marks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "sluicegate.yaml"
    path.write_text(files("gateway.cli").joinpath("sluicegate.yaml").read_text())
    with pytest.raises(ConfigurationError) as refused:
        load(path)
    assert {each.partition(":")[0] for each in refused.value.findings} == {
        "upstreams.openai",
        "upstreams.anthropic",
        "policy",
    }
    for name in ("OPENAI", "ANTHROPIC"):
        monkeypatch.setenv(f"SLUICEGATE_UPSTREAMS__{name}__KEY", KEY)
    for name in ("policies.tar.gz", "policies.pub.pem"):
        (tmp_path / name).write_text("made by `sluicegate policy build`")
    assert load(path).limits.store == "memory"


def test_the_control_process_gets_no_provider_key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SLUICEGATE_UPSTREAMS__OPENAI__KEY", KEY)
    assert KEY in child_environment(keep_provider_keys=True).values()
    assert KEY not in child_environment(keep_provider_keys=False).values()


# Exporters

HEC = {
    "kind": "webhook",
    "style": "hec",
    "url": "https://siem.example.com/services/collector/event",
}
ARCHIVE = {
    "kind": "s3",
    "url": "https://s3.example.com",
    "bucket": "record",
    "region": "eu-central-1",
    "access_key": "AKIAIOSFODNN7EXAMPLE",
    "secret": KEY,
    "retention_days": 400,
}


def test_control_each_kind_of_exporter_loads(read: Read, tmp_path: Path) -> None:
    (tmp_path / "token").write_text(KEY + "\n")
    settings = read(
        exporters={
            "log": {"kind": "syslog", "url": "tls://logs.example.org:6514", "heartbeats": True},
            "siem": {**HEC, "secret_file": str(tmp_path / "token"), "indexer_ack": True},
            "lines": {"kind": "webhook", "url": "https://siem.example.com/in?source=gate"},
            "otel": {"kind": "otlp", "url": "http://127.0.0.1:4318"},
            "archive": ARCHIVE,
        }
    )
    held = {name: exporter_secret(each) for name, each in settings.exporters.items()}
    assert held == {"log": None, "siem": KEY, "lines": None, "otel": None, "archive": KEY}
    assert KEY not in repr(settings)


def test_everything_that_is_wrong_with_exporters_is_told_at_once(
    read: Read, tmp_path: Path
) -> None:
    (tmp_path / "bad").write_text("x")
    found = findings(
        read,
        data={"workers": 3},
        exporters={
            "a": {"kind": "kafka", "url": "https://x.example.com"},
            "b": {"kind": "syslog", "url": "https://x.example.com", "secret": KEY},
            "c": {**HEC, "url": "http://siem.example.com/x"},
            "d": {**ARCHIVE, "bucket": "UP", "retention_days": 0, "heartbeats": True},
            "e": {"kind": "webhook", "url": "https://u:p@x.example.com", "indexer_ack": True},
            "f": {"kind": "otlp", "url": "https://x.example.com", "ca": str(tmp_path / "bad")},
            "g": {"kind": "otlp", "url": "https://x.example.com", "allowed_networks": ["all"]},
            "h": {**HEC, "secret_file": str(tmp_path / "bad")},
            "j": {"kind": "otlp"},
            "Bad Name": {"kind": "otlp", "url": "https://x.example.com"},
        },
    )
    wanted = [
        "exporters.a.kind: ",
        "exporters.b: secret: no key of an exporter of kind syslog",
        "exporters.b: url: write tls://HOST:PORT",
        "exporters.c: url: write https://",
        "exporters.c: secret: missing",
        "exporters.d.bucket: ",
        "exporters.d: heartbeats: no key of an exporter of kind s3",
        "exporters.d: retention_days: missing",
        "exporters.e: url: no user",
        "exporters.e: indexer_ack: only with style: hec",
        "exporters.f: ca: ",
        "exporters.g.allowed_networks.0: all is no network",
        "exporters.h.secret_file: is shorter",
        "exporters.j.url: missing",
        "exporters.Bad Name",
        "settings: data.workers is 3",
    ]
    assert [each for each in wanted if not any(told.startswith(each) for told in found)] == []
    assert len(found) == len(wanted), found


def test_a_process_gets_the_secret_of_no_other_exporter(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("SIEM", "ARCHIVE"):
        monkeypatch.setenv(f"SLUICEGATE_EXPORTERS__{name}__SECRET", KEY)
    names = {each: f"SLUICEGATE_EXPORTERS__{each.upper()}__SECRET" for each in ("siem", "archive")}
    for keep in (True, False):
        held = child_environment(keep_provider_keys=keep)
        assert [held[name] for name in names.values()] == ["withheld-from-this-process"] * 2
    mine = child_environment(keep_provider_keys=False, exporter="siem")
    assert mine[names["siem"]] == KEY
    assert mine[names["archive"]] != KEY
