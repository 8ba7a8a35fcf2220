"""Staff: members whose roles let them read the record, settle what is in it, and approve.

Separation of duty (NIST SP 800-53, AC-5): who gives out roles opens nothing, and who edits the
rules does not judge how they worked.
"""

from __future__ import annotations

from collections.abc import Iterable
from enum import StrEnum

__all__ = ["CONFLICTS", "Role", "conflict_of", "staff_roles"]


class Role(StrEnum):
    """What a member of the staff may do; a member's other roles are facts for rules."""

    AUDITOR = "auditor"
    """Reads the record, and takes it along."""
    REVIEWER = "reviewer"
    """Settles what the desk holds, and asks for sealed content."""
    APPROVER = "approver"
    """Approves what others ask for."""
    OPERATOR = "operator"
    """Edits the rules."""
    ADMIN = "admin"
    """Keeps people and their roles."""


CONFLICTS: tuple[tuple[Role, Role], ...] = (
    (Role.ADMIN, Role.REVIEWER),
    (Role.ADMIN, Role.APPROVER),
    (Role.OPERATOR, Role.REVIEWER),
    (Role.OPERATOR, Role.AUDITOR),
)
"""Roles that nobody has together."""

_ROLES = frozenset(Role)


def staff_roles(roles: Iterable[str]) -> frozenset[Role]:
    """The staff roles among a member's."""
    return frozenset(Role(role) for role in roles if role in _ROLES)


def conflict_of(roles: Iterable[str]) -> tuple[Role, Role] | None:
    """Two of these roles that nobody may have together."""
    held = staff_roles(roles)
    return next((pair for pair in CONFLICTS if held.issuperset(pair)), None)
