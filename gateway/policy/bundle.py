"""A bundle: the files of a policy, and the digest that names them.

The digest covers every file's path and bytes, tests and comments included, so one revision id
names one text. Data files are read by ``strict_yaml``. A bundle says nothing yet about whether
its rules are any good; ``lint`` and ``lifecycle`` do.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gateway.policy import strict_yaml
from gateway.policy.findings import BundleError

__all__ = ["Bundle", "BundleError", "bundle_from_files", "packages", "read_directory"]

MAX_FILE_BYTES = 4 * 1024 * 1024
MAX_FILES = 1000
MAX_PATH = 100

_PATH = re.compile(r"(?:[a-z0-9_][a-z0-9_.-]*/){0,8}[a-z0-9_][a-z0-9_.-]*\Z")
_DATA_FILE = re.compile(r"data/([a-z][a-z0-9_]{0,63})\.yaml\Z")
_PACKAGE = re.compile(r"^package[ \t]+([A-Za-z_][A-Za-z0-9_.]*)[ \t]*(?:#.*)?$", re.MULTILINE)
_RESERVED = frozenset({"data", "input", "system", "roots", "revision"})


@dataclass(frozen=True)
class Bundle:
    """A policy as it is written.

    ``id`` is ``sha256:`` and 64 hex digits. ``files`` holds all of it by relative path; the rest
    is read from there: ``modules`` are the rules, ``tests`` the ``*_test.rego`` beside them, and
    ``data["models"]`` is the content of ``data/models.yaml``.
    """

    id: str
    files: Mapping[str, bytes]
    modules: Mapping[str, str]
    tests: Mapping[str, str]
    data: Mapping[str, Any]


def read_directory(path: Path) -> Bundle:
    """Read ``**/*.rego`` and ``data/*.yaml`` below a directory; schemas and prose stay out.

    Raises:
        BundleError: something there cannot be part of a bundle.
    """
    files: dict[str, bytes] = {}
    findings: list[str] = []
    if not path.is_dir():
        raise BundleError([f"{path}: no such directory"])
    for entry in sorted(path.rglob("*")):
        name = entry.relative_to(path).as_posix()
        if not entry.is_file() or not (name.endswith(".rego") or name.startswith("data/")):
            continue
        try:
            files[name] = entry.read_bytes()
        except OSError as error:
            findings.append(f"{name}: {error.strerror}")
    if findings:
        raise BundleError(findings)
    return bundle_from_files(files)


def bundle_from_files(files: Mapping[str, bytes]) -> Bundle:
    """Make a bundle of files by relative path.

    Raises:
        BundleError: a path, an encoding, a size or a data file is not as it must be.
    """
    findings: list[str] = []
    modules: dict[str, str] = {}
    tests: dict[str, str] = {}
    data: dict[str, Any] = {}
    if len(files) > MAX_FILES:
        raise BundleError([f"{len(files)} files; a bundle holds at most {MAX_FILES}"])
    for name in sorted(files):
        try:
            text = _text(name, files[name])
            if name.endswith("_test.rego"):
                tests[name] = text
            elif name.endswith(".rego"):
                modules[name] = text
            else:
                data[_data_name(name)] = _mapping(name, text)
        except BundleError as error:
            findings += error.findings
    if not modules:
        findings.append("the bundle holds no rule: no *.rego file")
    findings += _collisions({**modules, **tests}, data)
    if findings:
        raise BundleError(findings)
    return Bundle(_digest(files), dict(files), modules, tests, data)


def packages(modules: Mapping[str, str]) -> dict[str, str]:
    """The package (without ``data.``) that each module declares, by path."""
    declared = {}
    for name, text in modules.items():
        match = _PACKAGE.search(text)
        if match:
            declared[name] = match[1]
    return declared


def _text(name: str, raw: bytes) -> str:
    if len(name) > MAX_PATH or not _PATH.match(name):
        raise BundleError([f"{name!r}: not a path of lower-case names"])
    if len(raw) > MAX_FILE_BYTES:
        raise BundleError([f"{name}: larger than {MAX_FILE_BYTES} bytes"])
    try:
        return raw.decode("utf-8")
    except UnicodeDecodeError:
        raise BundleError([f"{name}: not UTF-8"]) from None


def _data_name(name: str) -> str:
    match = _DATA_FILE.match(name)
    if not match or match[1] in _RESERVED:
        raise BundleError([f"{name}: data files are data/<name>.yaml"])
    return match[1]


def _mapping(name: str, text: str) -> dict[str, Any]:
    value = strict_yaml.load(text, name).value
    if not isinstance(value, dict):
        raise BundleError([f"{name}:1: the top of a data file is a mapping"])
    return value


def _collisions(modules: Mapping[str, str], data: Mapping[str, Any]) -> list[str]:
    declared = packages(modules)
    findings = [f"{name}:1: no package declaration" for name in modules if name not in declared]
    for name, package in declared.items():
        root = package.partition(".")[0]
        if root in data or root in _RESERVED:
            findings.append(f"{name}:1: package {package} stands where data.{root} stands")
    return findings


def _digest(files: Mapping[str, bytes]) -> str:
    content = hashlib.sha256()
    for name in sorted(files):
        content.update(f"{name}\0{len(files[name])}\0".encode())
        content.update(files[name])
    return "sha256:" + content.hexdigest()
