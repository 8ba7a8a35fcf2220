"""Who may see which page, and who may press which button: one table, and nothing beside it.

A route that is not in the table is refused to everybody; a test walks every route with every role.
"""

from __future__ import annotations

from gateway.core.staff import Role

__all__ = ["ACCESS", "PUBLIC", "READERS", "allowed"]

PUBLIC: frozenset[Role] | None = None
"""For who is not signed in as well."""
STAFF = frozenset(Role)
READERS = frozenset({Role.AUDITOR, Role.REVIEWER, Role.APPROVER})
SETTLE = frozenset({Role.REVIEWER})
APPROVE = frozenset({Role.APPROVER})
TAKE_ALONG = frozenset({Role.AUDITOR, Role.REVIEWER})

ACCESS: dict[tuple[str, str], frozenset[Role] | None] = {
    ("GET", "/"): PUBLIC,
    ("GET", "/static/{name}"): PUBLIC,
    ("GET", "/sign-in/{token}"): PUBLIC,
    ("POST", "/sign-in"): PUBLIC,
    ("POST", "/sign-out"): STAFF,
    ("GET", "/me"): STAFF,
    ("GET", "/desk"): READERS,
    ("GET", "/search"): READERS,
    ("GET", "/runs"): READERS,
    ("GET", "/records/{shard}/{seq}"): READERS,
    ("GET", "/records/{shard}/{seq}/explain"): READERS,
    ("GET", "/records/{shard}/{seq}/raw"): READERS,
    ("GET", "/records/{shard}/{seq}/proof"): READERS,
    ("GET", "/cases"): READERS,
    ("GET", "/cases/{case}"): READERS,
    ("GET", "/export"): TAKE_ALONG,
    ("GET", "/approvals"): READERS,
    ("GET", "/approvals/{approval}"): READERS,
    ("POST", "/reveals"): SETTLE,
    ("POST", "/approvals/{approval}/approve"): APPROVE,
    ("POST", "/approvals/{approval}/refuse"): APPROVE,
    ("POST", "/approvals/{approval}/open"): SETTLE,
    ("POST", "/review/take"): SETTLE,
    ("POST", "/review/note"): SETTLE,
    ("POST", "/review/resolve"): SETTLE,
    ("POST", "/review/escalate"): SETTLE,
    ("POST", "/cases/{case}/close"): SETTLE,
}
"""By method and route."""


def allowed(method: str, route: str, roles: frozenset[Role]) -> bool:
    """Whether these roles may do it."""
    wanted = ACCESS.get((method, route), frozenset())
    return wanted is None or bool(wanted & roles)
