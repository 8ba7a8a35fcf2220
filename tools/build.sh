#!/bin/sh
# Builds the Go tools that tests use, each from its pinned tools/<name>/go.mod, once.
# usage: tools/build.sh
# A tool is kept under the digest of its go.sum: needed again, it is there without network.
set -eu
cd "$(dirname "$0")/.."

digest() {
    "${PYTHON:-python3}" -c \
        'import hashlib, sys; print(hashlib.sha256(open(sys.argv[1], "rb").read()).hexdigest()[:16])' "$1"
}

for pins in tools/*/go.sum; do
    name=$(basename "$(dirname "$pins")")
    folder=$PWD/.cache/tools/$name/$(digest "$pins")
    [ -x "$folder/$name" ] && continue
    command -v go >/dev/null 2>&1 || {
        printf 'There is no go: install Go 1.26 or newer to build %s.\n' "$name" >&2
        exit 1
    }
    printf 'Building %s from tools/%s/go.mod (some minutes, once)\n' "$name" "$name"
    mkdir -p "$folder"
    # `tool` stands for the tool directives of that go.mod; a binary is named after its package.
    (
        cd "tools/$name"
        GOFLAGS=-mod=readonly go build -trimpath -buildvcs=false -ldflags='-s -w' -o "$folder.part/" tool
    )
    mv "$folder.part/"* "$folder/"
    rmdir "$folder.part"
done
