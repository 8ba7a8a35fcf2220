"""What is wrong with a bundle, in words, all at once."""

from __future__ import annotations

from collections.abc import Iterable

__all__ = ["BundleError"]


class BundleError(Exception):
    """A bundle was refused.

    Args:
        findings: every fault that was found, each ``file:line: what is wrong`` where a file is
            to blame.
    """

    def __init__(self, findings: Iterable[str]) -> None:
        self.findings = tuple(findings)
        super().__init__("\n".join(self.findings))
