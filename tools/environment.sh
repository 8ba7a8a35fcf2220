#!/bin/sh
# Makes .venv hold one of the locks, and nothing it has to fetch twice.
# usage: tools/environment.sh requirements-demo.lock
# The development lock is a superset of the demo's, so either environment serves the demo.
set -eu
cd "$(dirname "$0")/.."
lock=$1
python=${PYTHON:-python3}
venv=.venv

fail() {
    printf '%s\n' "$*" >&2
    exit 1
}

# A stamp names the lock's and the entry points' content, so that an unchanged one is never redone.
digest() {
    "$venv/bin/python" - "$1" <<'PY'
import hashlib, pathlib, sys
text = pathlib.Path(sys.argv[1]).read_bytes() + pathlib.Path("pyproject.toml").read_bytes()
print(hashlib.sha256(text).hexdigest()[:16])
PY
}

if ! [ -x "$venv/bin/python" ]; then
    command -v "$python" >/dev/null 2>&1 || fail "There is no $python. Install Python 3.11 or newer, or say PYTHON=/path/to/python."
    version=$("$python" -c 'import sys; print("%d.%d.%d" % sys.version_info[:3])')
    "$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' ||
        fail "$python is Python $version; this needs 3.11 or newer. Say PYTHON=python3.11, for example."
    "$python" -c 'import ensurepip, venv' 2>/dev/null ||
        fail "$python cannot make environments. On Debian: apt-get install python3-venv"
    printf 'Making %s with Python %s\n' "$venv" "$version"
    "$python" -m venv "$venv"
fi

stamp=$venv/.holds-$lock-$(digest "$lock")
superset=$venv/.holds-requirements-dev.lock-$(digest requirements-dev.lock)
if [ -e "$stamp" ] || [ -e "$superset" ]; then
    exit 0
fi

printf 'Installing %s packages from %s (a minute or so, once)\n' "$(grep -c '==' "$lock")" "$lock"
pip="$venv/bin/python -m pip --disable-pip-version-check --quiet"
$pip install --require-hashes -r "$lock"
$pip install --no-deps --no-build-isolation --no-index -e .
rm -f "$venv/.holds-$lock-"*
touch "$stamp"
