"""Nothing is installed that was not pinned and hashed, and the package carries what it needs."""

import importlib.metadata
import os
import re
import subprocess
import sys
import sysconfig
import tomllib
import zipfile
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parents[2]
LOCKS = sorted(path.name for path in ROOT.glob("requirements*.lock"))
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
DISTUTILS = "distutils-precedence.pth"
PIN = re.compile(r"^(?P<name>[A-Za-z0-9._-]+)(\[[^\]]+\])?==(?P<version>[^ ;]+)")


def entries(text: str) -> list[list[str]]:
    """The lock's requirements, each with its continuation lines; comments are left out."""
    joined = text.replace("\\\n", " ")
    return [line.split() for line in joined.splitlines() if line.strip() and "#" not in line[:5]]


def unhashed(text: str) -> list[str]:
    """What a lock holds that is not one version with at least one SHA-256."""
    digest = re.compile(r"--hash=sha256:[0-9a-f]{64}")
    return [
        words[0]
        for words in entries(text)
        if not PIN.match(words[0])
        or not any(digest.fullmatch(word) for word in words)
        or any(word.startswith("--") and not digest.fullmatch(word) for word in words)
    ]


def pins(lock: str) -> dict[str, str]:
    found = [PIN.match(words[0]) for words in entries((ROOT / lock).read_text())]
    return {canonicalize_name(one["name"]): one["version"] for one in found if one}


def executable_lines(site: Path) -> list[str]:
    """Lines of ``.pth`` files that Python runs at every start, but for setuptools' own."""
    return [
        f"{path.name}: {line}"
        for path in sorted(site.glob("*.pth"))
        for line in path.read_text().splitlines()
        if line.startswith(("import ", "import\t"))
        and not (path.name == DISTUTILS and "_distutils_hack" in line and len(line) < 200)
    ]


def test_there_are_the_four_locks():
    assert LOCKS == [
        "requirements-build.lock",
        "requirements-demo.lock",
        "requirements-dev.lock",
        "requirements.lock",
    ]


@pytest.mark.parametrize("lock", LOCKS)
def test_k19_every_locked_requirement_is_one_version_with_hashes(lock):
    text = (ROOT / lock).read_text()
    assert unhashed(text) == []
    assert len(pins(lock)) == len(entries(text)) > 0


def test_k19_the_check_sees_what_is_unhashed():
    assert unhashed("good==1 --hash=sha256:" + "a" * 64) == []
    for bad in ("loose>=1", "bare==1", "x==1 --hash=md5:00", "--extra-index-url there", "y @ file"):
        assert unhashed(bad), bad


@pytest.mark.parametrize("lock", LOCKS)
def test_k19_locks_name_no_place(lock):
    text = (ROOT / lock).read_text()
    assert "://" not in text
    assert "index-url" not in text
    assert "find-links" not in text


@pytest.mark.parametrize("lock", LOCKS)
def test_locks_agree_with_the_development_lock(lock):
    development = pins("requirements-dev.lock")
    extra = {"maturin"} if lock == "requirements-build.lock" else set()
    assert {n: v for n, v in pins(lock).items() if n not in extra}.items() <= development.items()


def test_locks_answer_what_the_project_asks():
    project = PROJECT["project"]
    asked = {
        "requirements.lock": project["dependencies"],
        "requirements-demo.lock": project["optional-dependencies"]["demo"],
        "requirements-dev.lock": [r for r in PROJECT["dependency-groups"]["dev"] if type(r) is str],
    }
    for lock, requirements in asked.items():
        held = pins(lock)
        for requirement in map(Requirement, requirements):
            assert held[canonicalize_name(requirement.name)] in requirement.specifier, requirement


def test_k19_what_is_installed_is_what_is_locked():
    locked = pins("requirements-dev.lock")
    installed = {
        canonicalize_name(one.metadata["Name"]): one.version
        for one in importlib.metadata.distributions()
    }
    differing = {n: (v, locked[n]) for n, v in installed.items() if locked.get(n, v) != v}
    assert differing == {}


def test_k19_nothing_runs_at_the_start_of_python(tmp_path):
    assert executable_lines(Path(sysconfig.get_path("purelib"))) == []
    (tmp_path / "stealer.pth").write_text("import os; os.environ\n")
    assert executable_lines(tmp_path) == ["stealer.pth: import os; os.environ"]


def test_k24_the_floor_of_pydantic_settings_excludes_the_vulnerable_versions():
    asked = {r.name: r.specifier for r in map(Requirement, PROJECT["project"]["dependencies"])}
    for vulnerable in ("2.14.1", "2.14.0", "2.3.0"):
        assert vulnerable not in asked["pydantic-settings"]
    assert pins("requirements.lock")["pydantic-settings"] in SpecifierSet(">=2.14.2")


def test_the_policy_engine_stays_at_the_version_that_was_compared():
    assert "gordon-to-regorus==0.11.0" in PROJECT["project"]["dependencies"]


def test_k19_the_image_installs_by_hash_and_runs_as_nobody():
    text = (ROOT / "Dockerfile").read_text().replace("\\\n", " ")
    fetching = re.findall(r"pip (?:install|wheel)[^&\n]*", text)
    assert len(fetching) == 4
    assert all("--require-hashes" in one or "--no-index" in one for one in fetching)
    assert "--no-binary gordon-to-regorus" in text
    assert "latest" not in text
    assert re.findall(r"^USER (\S+)", text, re.MULTILINE) == ["65532:65532"]


def test_a_wheel_carries_the_sample_policies_and_the_licence(tmp_path):
    subprocess.run(
        [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(tmp_path)],
        cwd=ROOT,
        env={**os.environ, "SOURCE_DATE_EPOCH": "1580601600"},
        check=True,
        capture_output=True,
        timeout=60,
    )
    (wheel,) = tmp_path.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
        archive.extractall(tmp_path / "installed")
    assert {name.split("/")[0].split("-")[0] for name in names} == {"gateway", "sluicegate"}
    assert "gateway/py.typed" in names
    (licence,) = (name for name in names if name.endswith(".dist-info/licenses/LICENSE"))
    assert (tmp_path / "installed" / licence).read_bytes() == (ROOT / "LICENSE").read_bytes()
    code = (
        "import sys; sys.path.insert(0, sys.argv[1]);"
        "from gateway.samples import sample_policies as s; print(s())"
    )
    found = subprocess.run(
        [sys.executable, "-I", "-c", code, str(tmp_path / "installed")],
        check=True,
        capture_output=True,
        text=True,
        timeout=60,
    )
    place = Path(found.stdout.strip())
    assert place == tmp_path / "installed" / "gateway" / "_policies"
    ours = ROOT / "policies"
    kept = {path.relative_to(ours) for path in ours.rglob("*") if path.is_file()}
    assert {path.relative_to(place) for path in place.rglob("*") if path.is_file()} == kept


def test_the_licence_is_the_whole_text_of_what_is_declared_and_is_in_the_image():
    text = (ROOT / "LICENSE").read_text()
    assert "Apache License\n                           Version 2.0, January 2004" in text
    assert "END OF TERMS AND CONDITIONS" in text
    assert PROJECT["project"]["license"] == "Apache-2.0"
    assert PROJECT["project"]["license-files"] == ["LICENSE"]
    assert "!LICENSE" in (ROOT / ".dockerignore").read_text().splitlines()
    copied = [line for line in (ROOT / "Dockerfile").read_text().splitlines() if "COPY" in line]
    assert any("pyproject.toml" in line and "LICENSE" in line.split() for line in copied)
