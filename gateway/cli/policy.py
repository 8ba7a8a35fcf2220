"""``policy``: check rules, build a signed bundle, have it taken up, and find a rule by its id."""

from __future__ import annotations

import os
import secrets
import stat
from pathlib import Path
from typing import Annotated

import typer
from joserfc.errors import JoseError
from joserfc.jwk import ECKey

from gateway.cli.control import ask
from gateway.cli.entities import ended
from gateway.cli.options import Actor, Reason, author
from gateway.cli.terminal import (
    DIR,
    EXIT_NO,
    EXIT_UNAVAILABLE,
    EXIT_USAGE,
    AsJson,
    Directory,
    fail,
    say,
    show_json,
    table,
    warn,
)
from gateway.policy.archive import write_archive
from gateway.policy.bundle import Bundle, read_directory
from gateway.policy.findings import BundleError
from gateway.policy.lifecycle import examine

__all__ = ["app"]

app = typer.Typer(
    help="The rules: check them, bundle them, have them taken up.",
    no_args_is_help=True,
    rich_markup_mode=None,
)

CURVE = "P-256"
Rules = Annotated[
    Path,
    typer.Argument(
        metavar="DIR", help="The directory with the rules.", exists=True, file_okay=False
    ),
]
POLICIES = Path("policies")


def _examined(directory: Path) -> tuple[Bundle | None, list[str]]:
    """The bundle of a directory, and all that would keep it from becoming active."""
    try:
        bundle = read_directory(directory)
        return bundle, examine(bundle)
    except BundleError as error:
        return None, list(error.findings)


@app.command()
def check(policies: Rules = POLICIES, json: AsJson = False) -> None:
    """Lint the rules and run their own tests."""
    bundle, findings = _examined(policies)
    if json:
        revision = bundle.id if bundle is not None else None
        show_json({"ok": not findings, "revision": revision, "findings": findings})
    elif findings or bundle is None:
        for finding in findings:
            say(finding)
        say(f"{len(findings)} finding{'' if len(findings) == 1 else 's'}")
    else:
        say(f"{bundle.id}: {len(bundle.modules)} modules, {len(bundle.tests)} test files: good")
    if findings:
        raise SystemExit(EXIT_NO)


@app.command()
def build(
    output: Annotated[Path, typer.Option("-o", "--output", help="The archive to write.")],
    policies: Rules = POLICIES,
    signing_key: Annotated[
        Path | None,
        typer.Option(
            "--signing-key",
            metavar="PEM",
            help="A P-256 private key; a gateway takes up no unsigned bundle.",
        ),
    ] = None,
    json: AsJson = False,
) -> None:
    """Check the rules and pack them as a signed bundle."""
    key = _signing_key(signing_key) if signing_key is not None else None
    bundle, findings = _examined(policies)
    if bundle is None or findings:
        warn(f"not built: {policies} has findings")
        fail("\n".join(findings), "see `sluicegate policy check`")
    archive = write_archive(bundle, key)
    beside = output.with_name(f".{output.name}.{secrets.token_hex(4)}")
    try:
        # A gateway may be about to read it: it finds the old one or the new one.
        beside.write_bytes(archive)
        beside.replace(output)
    except OSError as error:
        beside.unlink(missing_ok=True)
        fail(f"{output}: {error.strerror}", code=EXIT_UNAVAILABLE)
    if key is None:
        warn("the bundle is not signed", "sign it with --signing-key before a gateway reads it")
    if json:
        signed = key is not None
        show_json({"file": str(output), "revision": bundle.id, "signed": signed})
    else:
        say(f"wrote {output}: {bundle.id}{', signed' if key is not None else ''}")


def _signing_key(path: Path) -> ECKey:
    try:
        mode = stat.S_IMODE(path.stat().st_mode)
        pem = path.read_text()
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "not a PEM file"
        fail(f"--signing-key: {path}: {reason}", code=EXIT_USAGE)
    if mode & 0o077:
        fail(
            f"--signing-key: {path} may be read by others: whoever has it decides who gets in",
            f"chmod 600 {path}",
            code=EXIT_USAGE,
        )
    try:
        key = ECKey.import_key(pem)
    except (ValueError, TypeError, JoseError):
        key = None
    if key is None or not key.is_private or key.curve_name != CURVE:
        fail(
            f"--signing-key: {path} is not a {CURVE} private key",
            "make one with `sluicegate policy keygen`",
            code=EXIT_USAGE,
        )
    return key


@app.command()
def keygen(
    prefix: Annotated[
        str, typer.Argument(metavar="PREFIX", help="PREFIX.pem signs, PREFIX.pub.pem verifies.")
    ],
    json: AsJson = False,
) -> None:
    """Make a key pair that signs and verifies bundles."""
    key = ECKey.generate_key(CURVE)
    private, public = Path(f"{prefix}.pem"), Path(f"{prefix}.pub.pem")
    for path in (private, public):
        if path.exists():
            fail(f"{path} exists, and a key is never overwritten", "choose another name")
    try:
        _write_new(private, key.as_pem(private=True), 0o600)
        _write_new(public, key.as_pem(private=False), 0o644)
    except OSError as error:
        fail(f"{error.filename}: {error.strerror}", code=EXIT_UNAVAILABLE)
    if json:
        show_json({"private": str(private), "public": str(public)})
        return
    say(f"wrote {private}: keep it where bundles are built, and nowhere else")
    say(f"wrote {public}: the gateway's policy.verification_key")


def _write_new(path: Path, content: bytes, mode: int) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, mode)
    with os.fdopen(descriptor, "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


@app.command("reload")
def reload_policy(
    reason: Reason, actor: Actor = None, directory: Directory = DIR, json: AsJson = False
) -> None:
    """Have the gateway read its rules again and activate them."""
    body = {"actor": author(actor), "reason": reason}
    outcome = ask(directory, "/policy/activate", body)
    findings = outcome["findings"]
    if json:
        shown = ("revision", "position", "ended", "workers", "notes", "findings")
        show_json({"ok": not findings} | {name: outcome[name] for name in shown})
    elif findings:
        for finding in findings:
            say(finding)
        say("not activated: the revision before stays" if not outcome["workers"] else "see above")
    else:
        say(f"active: {outcome['revision']}")
        if outcome["position"]:
            say(f"record {outcome['position']}")
            say(ended(outcome))
        for note in outcome["notes"]:
            say(f"note: {note}")
    if findings:
        raise SystemExit(EXIT_NO)


@app.command()
def rules(directory: Directory = DIR, json: AsJson = False) -> None:
    """List the active rules, each with file and line."""
    found = ask(directory, "/rules")
    if json:
        show_json(found)
    elif found:
        rows = [[rule, f"{at['file']}:{at['line']}"] for rule, at in sorted(found.items())]
        say(table(["RULE", "DEFINED"], rows))
    else:
        say("no policy is active")
