"""The same commands against a gateway that runs: they go through it, not around it."""

import signal
import subprocess
import sys
import time

import pytest

from gateway.identity import api_keys
from tests.functional.command_line import Operator, write_policies
from tests.policy.small_bundle import MODELS, RULES


@pytest.fixture(scope="module")
def operator(tmp_path_factory):
    """Beside a gateway, which starts once for all."""
    operator = Operator(tmp_path_factory.mktemp("gate"))
    elsewhere = MODELS.replace("opus", "glm").replace("mythos", "glm-large")
    elsewhere = elsewhere.replace("anthropic", "nowhere")
    write_policies(operator.policies, **{"data/models.yaml": MODELS + elsewhere})
    with (operator.home / "serve.log").open("w") as log:
        process = subprocess.Popen(
            [
                *(sys.executable, "-m", "gateway.cli", "serve", "--dev"),
                *("--config", str(operator.config)),
            ],
            stdout=log,
            stderr=subprocess.STDOUT,
        )
        try:
            deadline = time.monotonic() + 60
            while "upstreams.nowhere" not in (operator.home / "serve.log").read_text():
                assert process.poll() is None, (operator.home / "serve.log").read_text()
                assert time.monotonic() < deadline
                time.sleep(0.05)
            yield operator
        finally:
            process.send_signal(signal.SIGTERM)
            process.wait(timeout=30)


def test_changes_take_effect_in_the_workers(operator):
    """No configuration is named: the gateway has its own."""
    operator("org", "add", "acme", "--tier", "cyber=3", "--reason", "r")
    operator("member", "add", "red", "--org", "acme", "--reason", "r", "--actor", "ada")
    answer = operator("key", "add", "red", "--id", "k", "--reason", "r", "--json").json
    assert (answer["running"], answer["workers"], answer["ended"]) == (True, 1, 0)
    assert api_keys.digest_of(answer["key"])
    said = operator("key", "revoke", answer["key"], "--reason", "lost")
    assert "ended 0 running streams on 1 worker\n" in said.out
    assert f"record {operator.records()[-1]['log']}#" in said.out
    last = operator.changes()[-1]
    assert (last["op"], last["reason"]) == ("credential.revoke", "lost")
    assert operator.changes()[1]["actor"] == "ada"


def test_models_without_a_configured_endpoint_are_said_at_the_start_and_by_status(operator):
    note = "note: the catalogue names the endpoint nowhere, which is not configured\n"
    reaches = "  reaches: callers of glm, glm-large-5: their calls are refused\n"
    started = (operator.home / "serve.log").read_text()
    for told in (started, operator("status").out):
        assert note + reaches + "  do:      set upstreams.nowhere" in told
    shown = operator("status", "--json").json
    assert shown["problems"] == []
    assert shown["endpoints"] == {"anthropic": {"url": "http://127.0.0.1:9", "failures": 0}}


def test_words_that_the_active_policy_does_not_know_are_said(operator):
    said = operator("org", "add", "typo", "--tier", "cyberr=2", "--reason", "r")
    assert "the active policy knows no tier domain 'cyberr'; it knows cyber\n" in said.err
    assert "organisation typo is active" in said.out
    assert operator("org", "add", "right", "--tier", "cyber=2", "--reason", "r").err == ""


def test_lists_are_those_of_the_gateway(operator):
    operator("org", "add", "other", "--reason", "r")
    listed = {each["id"]: each for each in operator("org", "list", "--json").json}
    assert listed["other"]["status"] == "active"
    assert operator("org", "show", "other", "--json").json == listed["other"]
    assert "sha256" not in operator("key", "list", "--json").out


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (("org", "suspend", "nobody", "--reason", "r"), 1, "There is no organisation"),
        (("org", "add", "x", "--reason", "  "), 1, "needs a reason"),
        (("org", "add", "x", "--tier", "cyber=99", "--reason", "r"), 1, "Not a valid"),
        (("key", "revoke", "sk-sg-aaaaaa", "--reason", "r"), 1, "No key begins"),
        (("member", "show", "nobody"), 1, "sluicegate member list"),
    ],
)
def test_a_no_reads_as_it_does_without_a_gateway(operator, arguments, code, words):
    assert words in operator(*arguments, code=code).err


def test_reading_the_record_disturbs_nothing(operator):
    """Its readers open the registry beside the gateway: that is no tampering."""
    operator("audit", "tail")
    operator("audit", "verify", "--own-keys")
    operator("audit", "show", "control#0", "--facts")
    assert operator("status", "--json").json["problems"] == []


def test_rules_are_read_again_when_asked(operator):
    said = operator("policy", "reload", "--reason", "look again")
    assert "note: already active" in said.out
    write_policies(operator.policies, **{"sluicegate/decision.rego": RULES + "\nx if {\n"})
    said = operator("policy", "reload", "--reason", "a mistake", code=1)
    assert "sluicegate/decision.rego:" in said.out
    assert "the revision before stays" in said.out
    write_policies(operator.policies)
    operator("policy", "reload", "--reason", "taken back")
    answer = operator("policy", "reload", "--reason", "r", "--json").json
    assert answer["ok"]
    assert answer["revision"].startswith("sha256:")
    assert operator("policy", "rules", "--json").json == {
        "tiers.insufficient": {"file": "sluicegate/decision.rego", "line": 5}
    }
    assert "sluicegate/decision.rego:5" in operator("policy", "rules").out
