"""The Helm chart: it lints, its objects are valid Kubernetes, and it stays locked down."""

import json
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml

CHART = Path(__file__).resolve().parents[2] / "helm" / "sluicegate"
KUBERNETES = "1.37"
PROMETHEUS = [{"namespaceSelector": {"matchLabels": {"name": "monitoring"}}}]
MONITORED = {"serviceMonitor": {"enabled": True}, "networkPolicy": {"opsFrom": PROMETHEUS}}
VARIANTS = {
    "default": {},
    "behind a proxy": {"behindProxy": True},
    "monitored": MONITORED,
    "nobody let in": {"networkPolicy": {"dataFrom": [], "egress": []}},
    "least": {
        "networkPolicy": {"enabled": False},
        "podDisruptionBudget": {"enabled": False},
        "serviceAccount": {"create": False},
    },
    "everything set": {
        "image": {"repository": "registry.example:5000/gate", "digest": f"sha256:{'a' * 64}"},
        "imagePullSecrets": ["pull"],
        "fullnameOverride": "gate",
        "providerKeys": {"existingSecret": "keys"},
        "policyBundle": {"existingSecret": "rules"},
        "tls": {"existingSecret": "certificate"},
        "persistence": {"existingClaim": "claim"},
        "service": {"type": "LoadBalancer", "annotations": {"a": "b"}},
        "podAnnotations": {"a": "b"},
        "podLabels": {"team": "release"},
        "nodeSelector": {"disk": "fast"},
        "tolerations": [{"key": "gate", "operator": "Exists"}],
        "affinity": {"nodeAffinity": {}},
        "priorityClassName": "high",
        "config": {"data": {"drain_s": 120}, "log_level": "debug"},
    },
}

pytestmark = pytest.mark.needs("helm")
Helm = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def helm(helm_binary: str, tmp_path: Path) -> Helm:
    def run(verb: str, *arguments: str, values: dict[str, Any] | None = None) -> Any:
        overrides = tmp_path / "values.json"
        overrides.write_text(json.dumps(values or {}))
        command = [helm_binary, verb, *arguments, str(CHART), "--values", str(overrides)]
        home = {"HOME": str(tmp_path), "PATH": "/usr/bin:/bin"}
        return subprocess.run(
            command, env=home, capture_output=True, text=True, check=False, timeout=60
        )

    return run


@pytest.fixture
def render(helm: Helm) -> Callable[..., dict[str, Any]]:
    """Objects by ``Kind/name``, without the release's name."""

    def rendered(values: dict[str, Any] | None = None) -> dict[str, Any]:
        done = helm("template", "prod", values=values)
        assert done.returncode == 0, done.stderr
        objects = [one for one in yaml.safe_load_all(done.stdout) if one]
        keys = [f"{one['kind']}/{one['metadata']['name']}" for one in objects]
        assert len(set(keys)) == len(keys)
        return dict(zip(keys, objects, strict=True))

    return rendered


def pod(objects: dict[str, Any]) -> dict[str, Any]:
    return next(o for k, o in objects.items() if k.startswith("StatefulSet/"))["spec"]["template"]


def test_lint_strict(helm):
    done = helm("lint", "--strict")
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("variant", VARIANTS)
def test_every_object_is_valid_kubernetes(render, variant):
    objects = render(VARIANTS[variant])
    known = {key: o for key, o in objects.items() if not key.startswith("ServiceMonitor/")}
    for one in known.values():
        kubernetes_validate.validate(one, KUBERNETES, strict=True)
    assert len(known) >= 5


def test_the_validator_itself_refuses_what_is_wrong(render):
    stateful = render()["StatefulSet/prod-sluicegate"]
    stateful["spec"]["replicas"] = "one"
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(stateful, KUBERNETES, strict=True)


@pytest.mark.parametrize("variant", VARIANTS)
def test_the_pod_meets_the_restricted_standard(render, variant):
    spec = pod(render(VARIANTS[variant]))["spec"]
    assert spec["automountServiceAccountToken"] is False
    assert spec["enableServiceLinks"] is False
    assert spec["securityContext"]["runAsNonRoot"] is True
    assert spec["securityContext"]["runAsUser"] == 65532
    assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert not {"hostNetwork", "hostPID", "hostIPC"} & spec.keys()
    allowed = {"configMap", "secret", "emptyDir", "persistentVolumeClaim"}
    assert {kind for volume in spec["volumes"] for kind in volume} - {"name"} <= allowed
    for container in spec["containers"]:
        assert container["securityContext"] == {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        }
        assert not container["image"].endswith(":latest")


def test_the_grace_period_outlasts_the_drain(render):
    for drain_s in (1, 120):
        spec = pod(render({"config": {"data": {"drain_s": drain_s}}}))["spec"]
        settle_s = spec["containers"][0]["lifecycle"]["preStop"]["sleep"]["seconds"]
        assert spec["terminationGracePeriodSeconds"] >= drain_s + settle_s + 10


def test_the_volume_of_the_log_is_never_deleted(render):
    stateful = render()["StatefulSet/prod-sluicegate"]["spec"]
    assert set(stateful["persistentVolumeClaimRetentionPolicy"].values()) == {"Retain"}
    mounts = pod(render())["spec"]["containers"][0]["volumeMounts"]
    assert {"name": "state", "mountPath": "/var/lib/sluicegate"} in mounts


def test_the_network_is_closed_but_for_what_is_named(render):
    policy = render()["NetworkPolicy/prod-sluicegate"]["spec"]
    assert policy["policyTypes"] == ["Ingress", "Egress"]
    assert [rule["ports"][0]["port"] for rule in policy["ingress"]] == ["data"]
    assert sorted({port["port"] for rule in policy["egress"] for port in rule["ports"]}) == [
        53,
        443,
    ]
    for rule in policy["egress"][1:]:
        assert rule["to"][0]["ipBlock"]["except"]
    closed = render({"networkPolicy": {"dataFrom": [], "egress": []}})
    spec = closed["NetworkPolicy/prod-sluicegate"]["spec"]
    assert not spec.get("ingress")
    assert len(spec["egress"]) == 1
    everyone = [
        rule
        for rule in policy["ingress"] + policy["egress"]
        if not (rule.get("from") or rule.get("to"))
    ]
    assert everyone == []


def test_listeners_have_tls_unless_a_proxy_is_said_to(render):
    for behind, key in ((False, "tls"), (True, "behind_proxy")):
        objects = render({"behindProxy": behind})
        config = yaml.safe_load(objects["ConfigMap/prod-sluicegate"]["data"]["sluicegate.yaml"])
        for name, port in (("data", 8080), ("console", 8081), ("ops", 8082)):
            assert config[name]["listen"] == f"0.0.0.0:{port}"
            assert config[name][key]
            service = objects[f"Service/prod-sluicegate-{name}"]["spec"]["ports"][0]
            assert service["port"] == port
        names = {volume["name"] for volume in pod(objects)["spec"]["volumes"]}
        assert ("tls" in names) is not behind
        assert pod(objects)["spec"]["containers"][0]["readinessProbe"]["httpGet"]["scheme"] == (
            "HTTP" if behind else "HTTPS"
        )


def test_what_the_operator_wrote_reaches_sluicegate_yaml_and_rolls_the_pod(render):
    before, after = render(), render({"config": {"appeal": "the release desk"}})
    config = yaml.safe_load(after["ConfigMap/prod-sluicegate"]["data"]["sluicegate.yaml"])
    assert config["appeal"] == "the release desk"
    assert config["upstreams"]["openai"]["kind"] == "openai"
    sums = [pod(one)["metadata"]["annotations"]["checksum/config"] for one in (before, after)]
    assert sums[0] != sums[1]


def test_the_monitor_scrapes_ops_over_tls(render):
    monitor = render(MONITORED)["ServiceMonitor/prod-sluicegate"]["spec"]
    assert monitor["selector"]["matchLabels"]["app.kubernetes.io/component"] == "ops"
    assert monitor["endpoints"][0]["scheme"] == "https"
    assert "insecureSkipVerify" not in monitor["endpoints"][0]["tlsConfig"]


@pytest.mark.parametrize(
    ("values", "finding"),
    [
        ({"replicas": 2}, "/replicas"),
        ({"replica": 1}, "replica"),
        ({"image": {"tag": "latest"}}, "/image/tag"),
        ({"image": {"digest": "sha256:short"}}, "/image/digest"),
        ({"config": {"state_dir": "/data"}}, "/config/state_dir"),
        ({"config": {"data": {"listen": "0.0.0.0:80"}}}, "/config/data/listen"),
        ({"config": {"policy": {"directory": "/policies"}}}, "/config/policy/directory"),
        ({"config": {"upstreams": {"openai": {"key": "sk-in-clear"}}}}, "/config/upstreams/openai"),
        ({"config": {"exporters": {"siem": {"secret": "in-clear"}}}}, "/config/exporters/siem"),
        ({"persistence": {"size": "lots"}}, "/persistence/size"),
        ({"networkPolicy": {"egress": [{"cidr": "10.0.0.0/8"}]}}, "/networkPolicy/egress"),
        ({"networkPolicy": {"dataFrom": [{}]}}, "/networkPolicy/dataFrom"),
        ({"serviceMonitor": {"enabled": True}}, "networkPolicy.opsFrom lets nobody in"),
    ],
)
def test_wrong_values_are_refused_by_name(helm, values, finding):
    done = helm("template", "prod", values=values)
    assert done.returncode != 0
    assert finding in done.stderr


def test_the_notes_name_what_the_pod_waits_for(helm):
    notes = helm("install", "--dry-run=client", "prod")
    text = notes.stdout + notes.stderr
    assert "prod-sluicegate-provider-keys" in text
    assert "SLUICEGATE_UPSTREAMS__ANTHROPIC__KEY" in text
    assert "prod-sluicegate-policy" in text
