"""``policy``: rules checked and bundled, with no gateway running."""

import stat

import pytest
from joserfc.jwk import ECKey, RSAKey

from gateway.policy.archive import read_archive
from gateway.policy.bundle import read_directory
from gateway.policy.findings import BundleError
from gateway.samples import sample_policies
from tests.functional.command_line import Operator, write_policies
from tests.policy.small_bundle import RULES, TESTS

DECISION = "sluicegate/decision.rego"


@pytest.fixture
def operator(tmp_path):
    return Operator(tmp_path)


@pytest.fixture
def keys(operator):
    """A signing key and its public half."""
    operator.bare("policy", "keygen", str(operator.home / "bundle"))
    return operator.home / "bundle.pem", operator.home / "bundle.pub.pem"


def test_good_rules_are_good(operator):
    said = operator.bare("policy", "check", str(operator.policies))
    revision = read_directory(operator.policies).id
    assert said.out == f"{revision}: 1 modules, 1 test files: good\n"
    answer = operator.bare("policy", "check", str(operator.policies), "--json").json
    assert answer == {"ok": True, "revision": revision, "findings": []}


def test_the_sample_policies_are_good(operator):
    operator.bare("policy", "check", str(sample_policies()))


@pytest.mark.parametrize(
    ("name", "text", "finding"),
    [
        (DECISION, RULES + "\nx if input.subject.nonsense\n", f"{DECISION}:19: "),
        (DECISION, RULES + "\nx if {\n", f"{DECISION}:"),
        ("sluicegate/decision_test.rego", TESTS.replace('"deny"', '"allow"'), "test_denies"),
        ("data/models.yaml", "opus: {stage: 1", "data/models.yaml:"),
        ("data/models.yaml", "opus: {stage: general}", "opus"),
    ],
    ids=["unknown fact", "syntax", "failing test", "not yaml", "half a model"],
)
def test_every_finding_is_said_with_its_place(operator, name, text, finding):
    write_policies(operator.policies, **{name: text})
    said = operator.bare("policy", "check", str(operator.policies), code=1)
    assert finding in said.out
    assert said.out.splitlines()[-1].endswith(("finding", "findings"))
    answer = operator.bare("policy", "check", str(operator.policies), "--json", code=1).json
    assert not answer["ok"]
    assert any(finding in each for each in answer["findings"])
    archive = operator.home / "b.tgz"
    built = operator.bare("policy", "build", str(operator.policies), "-o", str(archive), code=1)
    assert finding in built.err
    assert not archive.exists()


def test_a_directory_that_is_not_there_is_usage(operator):
    operator.bare("policy", "check", str(operator.home / "none"), code=2)


def test_a_bundle_is_signed_and_verifies(operator, keys):
    archive = operator.home / "b.tgz"
    said = operator.bare(
        "policy", "build", str(operator.policies), "-o", str(archive), "--signing-key", str(keys[0])
    )
    assert said.out.endswith(", signed\n")
    assert said.err == ""
    public = ECKey.import_key(keys[1].read_text())
    assert read_archive(archive.read_bytes(), public) == read_directory(operator.policies)
    with pytest.raises(BundleError):
        read_archive(archive.read_bytes(), ECKey.generate_key("P-256"))
    assert [path.name for path in operator.home.glob(".*")] == []


def test_an_unsigned_bundle_is_said_to_be_one(operator, keys):
    archive = operator.home / "b.tgz"
    arguments = ("policy", "build", str(operator.policies), "-o", str(archive))
    said = operator.bare(*arguments, "--json")
    assert said.json["signed"] is False
    assert "not signed" in said.err
    with pytest.raises(BundleError, match="not signed"):
        read_archive(archive.read_bytes(), ECKey.import_key(keys[1].read_text()))


def test_a_bundle_that_cannot_be_written_is_unavailable(operator):
    target = operator.home / "none" / "b.tgz"
    said = operator.bare("policy", "build", str(operator.policies), "-o", str(target), code=3)
    assert str(target) in said.err


def test_keys_are_private_and_never_overwritten(operator, keys):
    private, public = keys
    assert stat.S_IMODE(private.stat().st_mode) == 0o600
    assert ECKey.import_key(private.read_text()).is_private
    assert not ECKey.import_key(public.read_text()).is_private
    before = private.read_bytes()
    said = operator.bare("policy", "keygen", str(operator.home / "bundle"), code=1)
    assert "never overwritten" in said.err
    private.unlink()  # the public half alone also stops it: it may be in use
    operator.bare("policy", "keygen", str(operator.home / "bundle"), code=1)
    assert before.decode() not in said.out + said.err


@pytest.mark.parametrize(
    ("make", "mode", "words"),
    [
        (lambda: ECKey.generate_key("P-256").as_pem(private=True), 0o644, "chmod 600"),
        (lambda: ECKey.generate_key("P-256").as_pem(private=False), 0o600, "not a P-256"),
        (lambda: ECKey.generate_key("P-384").as_pem(private=True), 0o600, "not a P-256"),
        (lambda: RSAKey.generate_key(2048).as_pem(private=True), 0o600, "not a P-256"),
        (lambda: b"nonsense", 0o600, "not a P-256"),
        (lambda: b"", 0o600, "not a P-256"),
        (lambda: b"\xff\xfe", 0o600, "not a PEM file"),
        (None, 0o600, "No such file"),
    ],
    ids=["readable by all", "public", "other curve", "rsa", "text", "empty", "bytes", "absent"],
)
def test_k21_a_wrong_signing_key_is_refused_before_anything(operator, make, mode, words):
    key = operator.home / "key.pem"
    if make is not None:
        key.write_bytes(make())
        key.chmod(mode)
    arguments = ("policy", "build", str(operator.policies), "-o", str(operator.home / "b.tgz"))
    said = operator.bare(*arguments, "--signing-key", str(key), code=2)
    assert words in said.err
    assert not (operator.home / "b.tgz").exists()


@pytest.mark.parametrize("words", [("reload", "--reason", "r"), ("rules",)], ids=lambda w: w[0])
def test_what_needs_a_gateway_says_so(operator, words):
    said = operator("policy", *words, code=3)
    assert "no gateway runs in" in said.err
    assert "sluicegate serve" in said.err
