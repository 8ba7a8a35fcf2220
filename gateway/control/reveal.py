"""Opening sealed content: one asks with a reason and for a case, another approves and brings his
role's key, the first brings his own, and what he sees is on the record before he sees it.

The approver opens his half when he approves; it is kept in this process's memory until the quarter
of an hour is over, and is nothing without the reviewer's key. Neither key is kept.
"""

from __future__ import annotations

import secrets
import time
from hashlib import sha256
from typing import Any

import msgspec

from gateway.audit.content import (
    Part,
    Share,
    keyed_digest,
    open_share,
    opened,
    parse_role_key,
)
from gateway.audit.content_store import content_of, context_of, ref_of
from gateway.audit.records import (
    ApprovalGiven,
    ApprovalRefused,
    ApprovalRequested,
    ContentRevealed,
)
from gateway.audit.seal import SealError
from gateway.control.plane import ControlPlane
from gateway.control.staff import Staff
from gateway.core.approval import Act, Approval, Refused, digest_of
from gateway.core.clock import timestamp
from gateway.core.role_keys import Role as KeyRole
from gateway.core.role_keys import RoleKeyInvalid
from gateway.core.staff import Role

__all__ = ["LASTS_S", "WAITS_S", "Reveals", "sealed_parts"]

WAITS_S = 24 * 3600.0
LASTS_S = 15 * 60.0
NEEDED = 1
"""Approvers beside the author: two people in all, and two keys."""

Json = dict[str, Any]


def sealed_parts(record: Json) -> list[Part]:
    """The parts of a call that a record says are sealed."""
    return [part for part in Part if _sealed_as(record, part)]


def _sealed_as(record: Json, part: Part) -> str:
    """The digest of a sealed part; empty where nothing is sealed."""
    ref = ref_of(record, part)
    return "" if ref is None else ref.sealed_sha256


class Reveals:
    """The acts around an opening. Each raises ``Refused`` where it is not done, and
    ``LogUnavailable`` where it cannot be recorded; then nothing was done either.

    Args:
        plane: for the members' keys and the state directory.
        staff: records, and knows roles, approvals and cases.
    """

    def __init__(self, plane: ControlPlane, staff: Staff) -> None:
        self._plane = plane
        self._staff = staff
        self._halves: dict[str, Share] = {}

    async def ask(
        self, author: str, intent: Json, record: Json, *, part: Part, case: str, reason: str
    ) -> str:
        """Ask for one part of a call.

        Args:
            author: a member of the staff.
            intent: the call's first record, which names the caller.
            record: the record that names the sealed part; the intent itself for a request.
            part: which.
            case: an open case that holds the call.
            reason: why it has to be seen.

        Returns:
            The approval's id.
        """
        member = intent["subject"]["id"]
        self._check_case(case, member, int(intent["hlc"]))
        if part not in sealed_parts(record):
            raise Refused("Nothing is sealed of this.", "The policy's capture says what is kept.")
        eligible = tuple(each for each in self._approvers() if each != author)
        if not eligible:
            raise Refused(
                "There is nobody who could approve it.",
                "Give another person the role: sluicegate member set ID --role approver",
            )
        place = f"{record['log'].rpartition('/')[2]}#{record['seq']}"
        shown = {
            "act": Act.REVEAL,
            "author": author,
            "case": case,
            "member": member,
            "part": part,
            "reason": reason,
            "record": place,
            "sealed_sha256": _sealed_as(record, part),
        }
        text = msgspec.json.encode(shown, order="sorted").decode()
        name = f"apr_{secrets.token_hex(8)}"
        await self._staff.record(
            ApprovalRequested(
                actor=author,
                approval=name,
                act=Act.REVEAL,
                digest=digest_of(text),
                roles=(Role.APPROVER,),
                needed=NEEDED,
                eligible=eligible,
                expires_at=timestamp(time.time() + WAITS_S),
                shown=text,
                reason=reason,
            )
        )
        return name

    async def approve(self, who: str, name: str, digest: str, key: str, record: Json) -> None:
        """Approve, and open the approver's half.

        Args:
            who: a member of the staff.
            name: the approval.
            digest: of what he was shown.
            key: the approver's private role key, as its line.
            record: the record that the approval names.
        """
        approval, now = self._found(name), time.time()
        self._check_vote(who, name, digest)
        share = self._share(approval, record, key, KeyRole.APPROVER)
        given = ApprovalGiven(
            actor=who, approval=name, digest=digest, lasts_until=timestamp(now + LASTS_S)
        )
        await self._staff.record(given, if_so=lambda: self._check_vote(who, name, digest))
        self._halves[name] = share

    async def refuse(self, who: str, name: str, digest: str, reason: str) -> None:
        """Refuse; then it is refused."""
        refused = ApprovalRefused(actor=who, approval=name, reason=reason)
        await self._staff.record(refused, if_so=lambda: self._check_vote(who, name, digest))

    async def open(self, who: str, name: str, key: str, record: Json) -> bytes:
        """The content, once approved: recorded, then opened.

        Args:
            who: the author.
            name: the approval.
            key: the reviewer's private role key, as its line.
            record: the record that the approval names.
        """
        approval, now = self._found(name), time.time()
        self._forget_old(now)
        approval.check_use(who, approval.shown, now)
        half = self._halves.get(name)
        if half is None:
            raise Refused(
                "The approver's half is gone: the gateway was started again since.", "Ask anew."
            )
        mine = self._share(approval, record, key, KeyRole.REVIEWER)
        shown = self.shown(approval)
        if self._staff.reviews.cases[shown["case"]].closed:
            raise Refused("The case is closed: its reason to look is over.", "Open a new one.")
        subject_key = self._plane.registry.snapshot.subject_key(shown["member"])
        if subject_key is None:
            raise Refused("His key was destroyed: nothing of his can be opened.", "Nothing to do.")
        await self._staff.record(
            ContentRevealed(
                actor=who,
                approval=name,
                case=shown["case"],
                record=shown["record"],
                part=shown["part"],
                member=shown["member"],
                reason=approval.reason,
            )
        )
        part = Part(shown["part"])
        try:
            blob, context = self._blob(record, part), context_of(record, part)
            content = opened(blob, mine, half, subject_key, context)
        except SealError as error:
            raise Refused(
                f"It cannot be opened: {error}.", "See `sluicegate audit doctor`."
            ) from None
        ref = ref_of(record, part)
        # Of an answer that was too long, the digest is of all of it, and less was kept.
        if ref is None or (
            not ref.truncated and ref.digest != keyed_digest(subject_key, sha256(content).digest())
        ):
            raise Refused(
                "What was sealed is not what the record tells of.", "See `sluicegate audit verify`."
            )
        return content

    def _check_vote(self, who: str, name: str, digest: str) -> None:
        roles = self._staff.roles(who) or frozenset()
        self._found(name).check_vote(who, roles, digest, time.time())

    @staticmethod
    def shown(approval: Approval) -> dict[str, str]:
        """What an approval is about."""
        found: dict[str, str] = msgspec.json.decode(approval.shown)
        return found

    def _share(self, approval: Approval, record: Json, key: str, role: KeyRole) -> Share:
        shown = self.shown(approval)
        part = Part(shown["part"])
        if _sealed_as(record, part) != shown["sealed_sha256"]:
            raise Refused("The record does not name what was approved.", "Ask for this record.")
        try:
            role_key = parse_role_key(key)
            if role_key.role is not role:
                raise Refused(f"This is not the {role}'s key.", f"Bring the {role}'s.")
            return open_share(self._blob(record, part), role_key, context_of(record, part))
        except (RoleKeyInvalid, SealError) as error:
            raise Refused(
                f"The key does not open it: {error}.", f"Bring the {role}'s key."
            ) from None

    def _blob(self, record: Json, part: Part) -> bytes:
        shard = record["log"].rpartition("/")[2]
        return content_of(self._plane.state.content(shard), record, part)

    def _found(self, name: str) -> Approval:
        approval = self._staff.approvals.all.get(name)
        if approval is None:
            raise Refused("There is no such approval.", "See the list of approvals.")
        return approval

    def _check_case(self, case: str, member: str, at: int) -> None:
        known = self._staff.reviews.cases.get(case)
        if known is None or known.closed:
            raise Refused("There is no such open case.", "Put the call into a case first.")
        if not known.holds(member, at):
            raise Refused("The case does not hold this call.", "Put the call into the case first.")

    def _approvers(self) -> list[str]:
        members = self._plane.registry.snapshot.entities("member")
        return [each.id for each in members if Role.APPROVER in (self._staff.roles(each.id) or ())]

    def _forget_old(self, now: float) -> None:
        self._halves = {
            name: half
            for name, half in self._halves.items()
            if now < self._staff.approvals.all[name].lasts_until
        }
