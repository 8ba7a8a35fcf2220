"""The keys of what is sealed beside records, as a state directory holds them."""

from __future__ import annotations

from contextlib import closing

from gateway.audit.read import Entry
from gateway.audit.seal import SealError
from gateway.control.past import SealKeys
from gateway.registry.mac import KeyFileRefused, load_secret
from gateway.registry.registry import MASTER_KEY_FILE, ROW_KEY_FILE
from gateway.registry.store import Store, StoreUnavailable
from gateway.registry.subject_keys import unwrap
from gateway.state import StateDirectory

__all__ = ["CANNOT_OPEN", "facts_of", "sealing_keys"]

CANNOT_OPEN = (StoreUnavailable, KeyFileRefused)
"""What may keep the keys from being read."""


def sealing_keys(state: StateDirectory) -> SealKeys:
    """Every key that is left; those of members who were erased are not.

    Raises:
        StoreUnavailable, KeyFileRefused: they cannot be read.
    """
    if not state.registry.is_file():
        raise StoreUnavailable(f"there is no registry in {state.root}")
    master = load_secret(state.keys / MASTER_KEY_FILE, create=False)
    with closing(Store(state.registry)) as store:
        wrapped = store.wrapped_keys()
        rows = load_secret(state.keys / ROW_KEY_FILE, create=False) if store.has_row_key() else b""
    opened = {member: unwrap(master, member, each) for member, each in wrapped.items()}
    members = {member: key for member, key in opened.items() if key is not None}
    return SealKeys(members, rows)


def facts_of(state: StateDirectory, entry: Entry) -> bytes:
    """What is sealed beside a record: the facts of a decision, or the row that a change made.

    Raises:
        SealError: nothing is, or it cannot be opened: the key was destroyed, or is not of this
            registry.
        StoreUnavailable, KeyFileRefused: the keys cannot be read.
    """
    if entry.sealed is None:
        raise SealError("nothing is sealed beside this record")
    record = entry.json()
    member = record["subject"]["id"] if "subject" in record else record.get("sealed_for", "")
    key = sealing_keys(state).of(member)
    if key is None:
        whose = f"the facts of {member}" if member else "rows that are nobody's own"
        raise SealError(f"there is no key for {whose}: it was destroyed, or replaced")
    return entry.facts(key)
