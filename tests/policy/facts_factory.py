"""Facts for policy tests: hand-made ones, and many drawn at random.

``facts()`` is a vetted defender who may call the model he asks for; overrides replace fields by
path, with two underscores between the steps: ``facts(subject__tiers={"cyber": 0})``. Short paths
start at the properties of subject and action, and at ``context``; ``model`` is the resource's id.

``generate(seed, n)`` draws facts of which each effect of the sample policy takes a fair share.
"""

from __future__ import annotations

import copy
import random
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Any

import yaml

POLICIES = Path(__file__).resolve().parents[2] / "policies"
NOW = "2026-11-23T12:00:00Z"

Document = dict[str, Any]


def sample_data() -> Document:
    """The data of ``policies/data``: each file under its own name, as the loader merges them."""
    return {
        path.stem: yaml.safe_load(path.read_text())
        for path in sorted((POLICIES / "data").glob("*.yaml"))
    }


def vetting(kind: str, level: int, expires_at: str | None = "2027-06-01T00:00:00Z") -> Document:
    return {
        "kind": kind,
        "level": level,
        "verified_at": "2026-01-15T00:00:00Z",
        "expires_at": expires_at,
    }


def engagement(**overrides: Any) -> Document:
    return {
        "id": "eng-1",
        "status": "active",
        "starts_at": "2026-11-01T00:00:00Z",
        "ends_at": "2026-12-01T00:00:00Z",
        "techniques": ["recon"],
    } | overrides


_BASE: Document = {
    "subject": {
        "type": "member",
        "id": "m-red",
        "properties": {
            "status": "active",
            "tiers": {"cyber": 3, "bio": 2},
            "roles": [],
            "purposes": ["defence"],
            "vetting": [
                vetting("identity", 3),
                vetting("organisation", 2),
                vetting("biosafety", 1),
            ],
            "nationalities": ["DE"],
            "residence": "DE",
            "sponsored": False,
            "organisation": {
                "id": "o-northwind",
                "status": "active",
                "tiers": {"cyber": 3, "bio": 2},
                "retention": "standard",
                "licences": ["glasswing"],
                "agreements": ["acceptable-use-2026"],
            },
            "credential": {
                "id": "c-red",
                "kind": "api_key",
                "bound": "none",
                "expires_at": None,
                "scopes": [],
                "amr": [],
                "auth_time": None,
            },
            "engagement": None,
        },
    },
    "action": {
        "name": "model.generate",
        "properties": {
            "wire": "messages",
            "stream": True,
            "background": False,
            "store": False,
            "max_output_tokens": 4096,
            "tool_kinds": [],
            "custom_tools": 0,
            "program": None,
            "remote_fetch": False,
        },
    },
    "resource": {"type": "model", "id": "mythos-5"},
    "context": {
        "time": NOW,
        "calendar": {"weekday": 1, "hour": 12},
        "clock": "ok",
        "network": {"labels": ["loopback"], "country": "ZZ"},
        "signals": {},
        "targets": {"named": 0, "out_of_scope": 0},
        "budgets": {},
    },
}


def facts(**overrides: Any) -> Document:
    """The base facts with fields replaced; see the module. An unknown path raises KeyError."""
    document = copy.deepcopy(_BASE)
    roots = {
        "subject": document["subject"]["properties"],
        "action": document["action"]["properties"],
        "context": document["context"],
    }
    for path, value in overrides.items():
        if path == "model":
            document["resource"]["id"] = value
            continue
        if path == "action_name":
            document["action"]["name"] = value
            continue
        root, *steps, last = path.split("__")
        node = roots[root]
        for step in steps:
            node = node[step]
        if last not in node:
            raise KeyError(path)
        node[last] = copy.deepcopy(value)
    stamp = datetime.fromisoformat(document["context"]["time"])
    document["context"]["calendar"] = {"weekday": stamp.isoweekday(), "hour": stamp.hour}
    return document


NEWCOMER: Document = {
    "subject__tiers": {"cyber": 0},
    "subject__vetting": [],
    "subject__credential__id": "c-newcomer",
}
"""No level and no vetting, in the same organisation."""

BLUE: Document = {
    "subject__tiers": {"cyber": 2},
    "subject__vetting": [vetting("identity", 2), vetting("organisation", 1)],
    "subject__credential__id": "c-blue",
    "subject__credential__scopes": ["downgrade"],
}
"""A verified defender whose credential opted in to downgrades."""

JWT: Document = {
    "subject__credential__kind": "jwt",
    "subject__credential__amr": ["pwd", "mfa"],
    "subject__credential__auth_time": "2026-11-23T09:00:00Z",
}
"""A fresh sign-in with a second factor."""

_OPEN_MODELS = [
    ("gpt-5.5", "chat"),
    ("gpt-5.5", "responses"),
    ("gpt-5.5-cyber", "responses"),
    ("glm-5.2", "chat"),
    ("opus-4.8", "messages"),
    ("mythos-5", "messages"),
    ("fable-5", "messages"),
]


def _allowed(rng: random.Random) -> Document:
    model, wire = rng.choice(_OPEN_MODELS)
    chosen: Document = {"model": model, "action__wire": wire}
    match rng.randrange(5):
        case 0:
            chosen |= JWT
        case 1:
            chosen |= {"model": "text-embedding-4", "action__wire": "embeddings"}
            chosen |= {"action_name": "model.embed"}
        case 2:
            chosen |= {"action_name": "model.list", "action__wire": "models"}
        case 3:
            chosen |= {"subject__engagement": engagement()}
        case _:
            chosen |= {"action__tool_kinds": ["function"], "action__custom_tools": 3}
    return chosen


def _downgraded(rng: random.Random) -> Document:
    lacking = {"subject__tiers": {"cyber": rng.randrange(2)}}
    asked: Document = rng.choice(
        [
            {"model": "fable-5"},
            {"model": "gpt-5.5-cyber", "action__wire": "chat"} | lacking,
            {"model": "fable-5", "action_name": "model.count_tokens"},
        ]
    )
    return BLUE | asked


def _step_up(rng: random.Random) -> Document:
    weak: Document = rng.choice(
        [
            {"subject__credential__amr": ["pwd"]},
            {"subject__credential__auth_time": "2026-11-22T09:00:00Z"},
        ]
    )
    return rng.choice(
        [
            JWT | weak | {"model": rng.choice(["mythos-5", "fable-5"])},
            {"model": "fable-5.1", "subject__roles": ["red-team"]},
            {"model": "fable-5.1", "context__time": "2027-03-01T09:00:00Z"},
        ]
    )


def _approval(rng: random.Random) -> Document:
    held: Document = {"subject__roles": ["red-team"], "subject__credential__bound": "dpop"}
    return rng.choice(
        [
            {"model": "fable-5.1", "action__tool_kinds": ["shell"]} | held,
            {"model": "fable-5.1", "action__max_output_tokens": 0} | held,
            {"model": "mythos-5", "subject__purposes": ["authorised-offence"]},
        ]
    )


def _denied(rng: random.Random) -> Document:
    model = rng.choice([*sorted(sample_models()), "unknown", "no-such-model"])
    return NEWCOMER | {"model": model, "action__wire": rng.choice(["chat", "messages"])}


def sample_models() -> frozenset[str]:
    return _MODELS


_MODELS = frozenset(yaml.safe_load((POLICIES / "data" / "models.yaml").read_text()))

_RECIPES: list[Callable[[random.Random], Document]] = [
    _allowed,
    _downgraded,
    _step_up,
    _approval,
    _denied,
]

_TIMES = [
    "2026-11-23T12:00:00Z",
    "2027-02-28T23:59:59Z",
    "2027-03-01T08:59:59Z",
    "2027-03-01T09:00:00Z",
    "2027-06-01T00:00:00Z",
    "9999-12-31T23:59:59Z",
]

_TOOL_KINDS = [
    "function",
    "custom",
    "web_search",
    "web_fetch",
    "file_search",
    "code_execution",
    "shell",
    "computer",
    "text_editor",
    "mcp",
    "image_generation",
    "memory",
    "advisor",
    "other",
]

_SCOPES = [
    "downgrade",
    "wire:chat",
    "wire:messages",
    "wire:responses",
    "model:mythos-5",
    "model:fable-5",
    "class:cyber-2",
    "class:cyber-3",
    "openid",
]

_PROGRAMS = [None, "standard", "daybreak_blue", "daybreak_red", "other"]


def _some(rng: random.Random, choices: list[Any], most: int = 3) -> list[Any]:
    return rng.sample(choices, rng.randrange(min(most, len(choices)) + 1))


def _random_vetting(rng: random.Random) -> list[Document]:
    return [
        vetting(kind, rng.randrange(4), rng.choice([None, *_TIMES]))
        for kind in _some(rng, ["identity", "identity", "organisation", "biosafety"], 4)
    ]


_COUNTRIES = ["DE", "US", "FR", "IR", "KP", "ZZ"]

_MUTATIONS: dict[str, Callable[[random.Random], Any]] = {
    "model": lambda rng: rng.choice([*sorted(_MODELS), "unknown", "Nobody/knows-it"]),
    "action_name": lambda rng: rng.choice(
        ["model.generate", "model.list", "model.count_tokens", "model.embed"]
    ),
    "subject__status": lambda rng: rng.choice(["active", "suspended", "revoked"]),
    "subject__tiers": lambda rng: {"cyber": rng.randrange(10), "chem": 2},
    "subject__roles": lambda rng: _some(rng, ["evaluator", "red-team", "founding-partner"]),
    "subject__purposes": lambda rng: _some(rng, ["defence", "authorised-offence", "tourism"]),
    "subject__vetting": _random_vetting,
    "subject__nationalities": lambda rng: _some(rng, _COUNTRIES),
    "subject__residence": lambda rng: rng.choice(_COUNTRIES),
    "subject__sponsored": lambda _: True,
    "subject__organisation__status": lambda rng: rng.choice(["active", "suspended", "withdrawn"]),
    "subject__organisation__tiers": lambda rng: {"cyber": rng.randrange(5)},
    "subject__organisation__retention": lambda rng: rng.choice(["standard", "zero"]),
    "subject__organisation__licences": lambda rng: _some(
        rng, ["glasswing", "export:listed", "export:mythos-5"]
    ),
    "subject__organisation__agreements": lambda rng: _some(rng, ["acceptable-use-2026", "old"]),
    "subject__credential__kind": lambda rng: rng.choice(["api_key", "jwt"]),
    "subject__credential__bound": lambda rng: rng.choice(["mtls", "dpop", "none"]),
    "subject__credential__expires_at": lambda rng: rng.choice([None, *_TIMES]),
    "subject__credential__scopes": lambda rng: _some(rng, _SCOPES),
    "subject__credential__amr": lambda rng: _some(rng, ["pwd", "mfa", "hwk"]),
    "subject__credential__auth_time": lambda rng: rng.choice([None, *_TIMES[:-1]]),
    "subject__engagement": lambda rng: engagement(
        status=rng.choice(["active", "suspended", "closed"]), ends_at=rng.choice(_TIMES)
    ),
    "action__wire": lambda rng: rng.choice(
        ["chat", "responses", "embeddings", "messages", "count_tokens", "models"]
    ),
    "action__stream": lambda rng: rng.random() < 0.5,
    "action__background": lambda rng: rng.random() < 0.5,
    "action__store": lambda rng: rng.random() < 0.5,
    "action__remote_fetch": lambda rng: rng.random() < 0.5,
    "action__max_output_tokens": lambda rng: rng.choice([0, 1, 64000, 64001, 100_000_000]),
    "action__tool_kinds": lambda rng: _some(rng, _TOOL_KINDS, 5),
    "action__program": lambda rng: rng.choice(_PROGRAMS),
    "context__time": lambda rng: rng.choice(_TIMES),
    "context__clock": lambda rng: rng.choice(["ok", "unsure"]),
    "context__network": lambda rng: {
        "labels": _some(rng, ["loopback", "evaluation-lab"]),
        "country": rng.choice(_COUNTRIES),
    },
    "context__signals": lambda rng: {
        name: rng.randrange(1001) for name in _some(rng, ["misuse", "sharing", "unlisted"])
    },
    "context__targets": lambda rng: {"named": 5, "out_of_scope": rng.randrange(3)},
    "context__budgets": lambda rng: {
        name: rng.choice(["ok", "low", "spent"]) for name in _some(rng, ["cyber", "total"])
    },
}


def generate(seed: int, n: int) -> list[Document]:
    """``n`` schema-valid facts: each starts as a case of one effect, and a third are then changed
    in one to four places. The same seed gives the same facts."""
    rng = random.Random(seed)
    drawn = []
    for _ in range(n):
        overrides = dict(rng.choice(_RECIPES)(rng))
        if rng.random() < 1 / 3:
            for path in rng.sample(sorted(_MUTATIONS), rng.randrange(1, 5)):
                overrides[path] = _MUTATIONS[path](rng)
        drawn.append(facts(**overrides))
    return drawn
