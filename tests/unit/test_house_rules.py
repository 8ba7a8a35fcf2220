"""Rules of this code base that a type checker cannot see, each with a text that breaks it."""

import ast
import re
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
SOURCES = {
    path.relative_to(ROOT).as_posix(): ast.parse(path.read_text(), str(path))
    for path in sorted((ROOT / "gateway").rglob("*.py"))
}

PERMIT_MADE_IN = {"gateway/proxy/pipeline.py"}
ENVIRONMENT_READ_IN = {"gateway/settings.py"}
ENGINE_IMPORTED_IN = {"gateway/policy/embedded.py"}
LATE_IMPORTS_IN = ("gateway/cli/", "gateway/demo/")
ENVIRONMENT = {"environ", "environb", "getenv", "getenvb", "putenv", "unsetenv"}

EDGES = {
    "gateway/audit/writer.py": "the writer's thread: a dead one would leave its waiters hanging",
    "gateway/cli/main.py": "the command line: a person never sees a traceback",
    "gateway/policy/embedded.py": "the engine panics with a BaseException (K28)",
    "gateway/policy/opa.py": "the client's errors have no common base (K32)",
    "gateway/proxy/entry.py": "the edge of the data plane: a fault becomes the dialect's own error",
    "gateway/registry/registry.py": "a change half-made is taken back, and the error goes on",
}
"""Where everything may be caught, and why."""

Rule = Callable[[ast.AST], Iterator[ast.AST]]


def names_of(node: ast.AST) -> set[str]:
    """The last parts of what an expression or an import names."""
    if isinstance(node, ast.Name):
        return {node.id}
    if isinstance(node, ast.Attribute):
        return {node.attr}
    if isinstance(node, ast.Import | ast.ImportFrom):
        return {alias.name.rpartition(".")[2] for alias in node.names}
    return set()


def imported(node: ast.AST) -> set[str]:
    """The modules that an import names, with every package above them."""
    if isinstance(node, ast.Import):
        names = [alias.name for alias in node.names]
    elif isinstance(node, ast.ImportFrom):
        names = ["gateway" if node.level else node.module or ""]
    else:
        return set()
    return {".".join(name.split(".")[:n]) for name in names for n in range(1, 9)}


def makes_permit(tree: ast.AST) -> Iterator[ast.AST]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and "Permit" in names_of(node.func):
            yield node


def reads_environment(tree: ast.AST) -> Iterator[ast.AST]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and names_of(node.value) == {"os"}:
            found = {node.attr}
        elif isinstance(node, ast.ImportFrom) and node.module == "os":
            found = names_of(node)
        else:
            continue
        if found & ENVIRONMENT:
            yield node


def catches_everything(tree: ast.AST) -> Iterator[ast.AST]:
    for node in ast.walk(tree):
        if not isinstance(node, ast.ExceptHandler):
            continue
        caught = node.type.elts if isinstance(node.type, ast.Tuple) else [node.type]
        if any(one is None or names_of(one) & {"Exception", "BaseException"} for one in caught):
            yield node


def imports_engine(tree: ast.AST) -> Iterator[ast.AST]:
    return (node for node in ast.walk(tree) if "regorus" in imported(node))


def imports_late(tree: ast.AST) -> Iterator[ast.AST]:
    functions = (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda)
    for function in ast.walk(tree):
        if isinstance(function, functions):
            yield from (node for node in ast.walk(function) if "gateway" in imported(node))


def says_global(tree: ast.AST) -> Iterator[ast.AST]:
    return (node for node in ast.walk(tree) if isinstance(node, ast.Global))


def wraps_in_base_middleware(tree: ast.AST) -> Iterator[ast.AST]:
    return (node for node in ast.walk(tree) if "BaseHTTPMiddleware" in names_of(node))


def imports_foreign_client(tree: ast.AST) -> Iterator[ast.AST]:
    clients = {"httpx", "httpx2", "httpcore", "httpcore2", "requests", "urllib.request"}
    return (node for node in ast.walk(tree) if clients & imported(node))


def imports_a_test_double(tree: ast.AST) -> Iterator[ast.AST]:
    return (node for node in ast.walk(tree) if {"tests", "pytest", "unittest"} & imported(node))


def everywhere_but(allowed: set[str] | tuple[str, ...]) -> Callable[[str], bool]:
    return lambda path: not path.startswith(tuple(allowed))


RULES: dict[str, tuple[Rule, Callable[[str], bool], tuple[str, ...]]] = {
    "a permit is made in one place": (
        makes_permit,
        everywhere_but(PERMIT_MADE_IN),
        ("Permit(1)", "permit.Permit(a=1)"),
    ),
    "the environment is read in one place": (
        reads_environment,
        everywhere_but(ENVIRONMENT_READ_IN),
        ("os.environ['A']", "import os\nos.getenv('A')", "from os import environ"),
    ),
    "everything is caught at named edges alone": (
        catches_everything,
        everywhere_but(set(EDGES)),
        (
            "try: f()\nexcept: pass",
            "try: f()\nexcept Exception: pass",
            "try: f()\nexcept (ValueError, BaseException): pass",
        ),
    ),
    "the embedded engine is imported in one module": (
        imports_engine,
        everywhere_but(ENGINE_IMPORTED_IN),
        ("import regorus", "from regorus import Engine", "def f():\n import regorus.x"),
    ),
    "imports of our own stand at the top": (
        imports_late,
        everywhere_but(LATE_IMPORTS_IN),
        ("def f():\n import gateway.core", "async def f():\n from gateway.core import ids"),
    ),
    "no state is global": (says_global, everywhere_but(()), ("def f():\n global x",)),
    "K47 no BaseHTTPMiddleware": (
        wraps_in_base_middleware,
        everywhere_but(()),
        (
            "from starlette.middleware.base import BaseHTTPMiddleware",
            "class M(base.BaseHTTPMiddleware): pass",
        ),
    ),
    "no other HTTP client": (
        imports_foreign_client,
        everywhere_but(("gateway/demo/", "gateway/cli/")),
        ("import httpx", "from httpcore import x", "from urllib.request import urlopen"),
    ),
    "the product imports no test tool": (
        imports_a_test_double,
        everywhere_but(()),
        ("import unittest.mock", "from tests import x"),
    ),
}


@pytest.mark.parametrize("name", RULES)
def test_the_house_rule_holds(name):
    rule, applies, _ = RULES[name]
    broken = [
        f"{path}:{getattr(node, 'lineno', '?')}"
        for path, tree in SOURCES.items()
        if applies(path)
        for node in rule(tree)
    ]
    assert broken == []


@pytest.mark.parametrize(("name", "text"), [(n, t) for n, rule in RULES.items() for t in rule[2]])
def test_the_house_rule_sees_what_breaks_it(name, text):
    assert list(RULES[name][0](ast.parse(text)))


def test_every_named_edge_is_still_one():
    assert {path for path in EDGES if not list(catches_everything(SOURCES[path]))} == set()


def test_things_are_named_for_what_they_are():
    empty = re.compile(
        r"(^|_)(utils?|helpers?|managers?|misc|common)(_|$)|(Manager|Helper|Utils?)$"
    )
    names = {part for path in SOURCES for part in Path(path).with_suffix("").parts}
    classes = {
        node.name
        for tree in SOURCES.values()
        for node in ast.walk(tree)
        if isinstance(node, ast.ClassDef)
    }
    assert [name for name in sorted(names | classes) if empty.search(name)] == []
    assert all(empty.search(bad) for bad in ("utils", "key_helpers", "PolicyManager"))


# -- what may not be written anywhere --------------------------------------------------------------

INDEX_HOSTS = [
    ".".join(parts)
    for parts in (
        ("pypi", "org"),
        ("python" + "hosted", "org"),
        ("crates", "io"),
        ("proxy", "golang", "org"),
        ("sum", "golang", "org"),
        ("registry", "npmjs", "org"),
        ("deb", "debian", "org"),
        ("repo1", "maven", "org"),
    )
]
PLACES = ["/" + name + "/" for name in ("root", "work")]
WRITTEN = ("gateway", "policies", "tests", "docs", "bench", "helm", "tools", ".ci")
TEXT = {".md", ".py", ".rego", ".yaml", ".yml", ".json", ".toml", ".lock", ".sh", ".mod", ".tpl"}


def texts() -> Iterator[Path]:
    tops = [path for path in ROOT.iterdir() if path.is_file()]
    deep = [path for folder in WRITTEN for path in (ROOT / folder).rglob("*") if path.is_file()]
    for path in tops + deep:
        if path.suffix in TEXT or path.name in ("Makefile", "Dockerfile", "run", "go.sum"):
            yield path


def test_no_text_names_an_index_host_or_one_machines_folders():
    named = [
        f"{path.relative_to(ROOT)}: {word}"
        for path in texts()
        for word in (*INDEX_HOSTS, *PLACES)
        if word in path.read_text(errors="replace")
    ]
    assert named == []
    assert len(list(texts())) > len(SOURCES)
