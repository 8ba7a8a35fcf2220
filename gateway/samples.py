"""Where the sample policies are: in the checkout, or in the installed package beside this file."""

from __future__ import annotations

from pathlib import Path

__all__ = ["sample_policies"]


def sample_policies() -> Path:
    """The directory that holds ``sluicegate/*.rego``, ``data/*.yaml`` and ``schemas/``.

    A wheel carries it as ``gateway/_policies``; a checkout (also an editable install) has it as
    ``policies`` beside the package. It is to be read or copied from, never written to.

    Raises:
        FileNotFoundError: the installation is not whole.
    """
    package = Path(__file__).resolve().parent
    for place in (package / "_policies", package.parent / "policies"):
        if (place / "sluicegate").is_dir():
            return place
    raise FileNotFoundError(f"no sample policies beside {package}: install Sluicegate again")
