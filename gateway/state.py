"""The state directory: what lies where.

audit/<shard>/      one log for each writing process
content/<shard>/    what of its calls is sealed, for as long as the settings say
heads/<shard>       its newest checkpoint, kept outside the log
cosigned/<shard>    the newest that witnesses have cosigned
keys/               0700: log signing keys, the registry's MAC key, the pseudonym key
vkeys/<shard>       public log keys: copy them to whoever verifies
exporters/          what each exporter has sent (NAME.cursor), and how it does (NAME.json)
index.sqlite        what searches use; made from the logs, and may be deleted
registry.db         the registry
revisions/          every bundle that was activated, by digest
control.sock        0600: commands; bus.sock (0600): news to data workers
demo.json           only in a demo's directory
"""

from __future__ import annotations

import fcntl
import os
import secrets
from pathlib import Path

from gateway.settings import DEMO_MARKER

__all__ = ["CONTROL_SHARD", "StateDirectory", "StateInUse", "data_shard"]

CONTROL_SHARD = "control"
PSEUDONYM_KEY_BYTES = 32
MAX_SOCKET_PATH = 100
"""sockaddr_un holds 108 bytes; some room for the longer of the two names."""


class StateInUse(Exception):
    """Another gateway runs in this directory."""


def data_shard(index: int) -> str:
    """The log shard of a data worker."""
    return f"data-{index}"


class StateDirectory:
    """Paths below one root; makes directories, private to this user, when asked to."""

    def __init__(self, root: Path) -> None:
        self.root = root.absolute()

    def prepare(self) -> None:
        """Make what is missing.

        Raises:
            OSError: the directory cannot be made or is not ours.
        """
        for path in (self.root, self.audit, self.root / "heads", self.keys, self.root / "vkeys"):
            path.mkdir(mode=0o700, parents=True, exist_ok=True)

    @property
    def audit(self) -> Path:
        """The directory of all logs."""
        return self.root / "audit"

    def log(self, shard: str) -> Path:
        """The directory of one log."""
        return self.audit / shard

    def content(self, shard: str) -> Path:
        """The directory of one log's sealed content; made by the first piece of it."""
        return self.root / "content" / shard

    def head(self, shard: str) -> Path:
        """The file that holds a log's newest checkpoint."""
        return self.root / "heads" / shard

    def cosigned(self, shard: str) -> Path:
        """The file that holds the newest checkpoint of a log that witnesses have cosigned."""
        return self.root / "cosigned" / shard

    @property
    def keys(self) -> Path:
        """Secrets."""
        return self.root / "keys"

    def log_key(self, shard: str) -> Path:
        """The signing key of one log."""
        return self.keys / f"log-{shard}.key"

    def vkey(self, shard: str) -> Path:
        """The public key of one log."""
        return self.root / "vkeys" / shard

    def vkeys(self) -> dict[str, str]:
        """All public log keys, by shard."""
        directory = self.root / "vkeys"
        if not directory.is_dir():
            return {}
        return {path.name: path.read_text().strip() for path in sorted(directory.iterdir())}

    @property
    def exporters(self) -> Path:
        """What the exporters keep."""
        return self.root / "exporters"

    def exporter_cursor(self, name: str) -> Path:
        """The file that says how far an exporter has come in each log."""
        return self.exporters / f"{name}.cursor"

    def exporter_account(self, name: str) -> Path:
        """The file in which an exporter tells how it does."""
        return self.exporters / f"{name}.json"

    @property
    def index(self) -> Path:
        """What searches use."""
        return self.root / "index.sqlite"

    @property
    def revisions(self) -> Path:
        """The bundles that were activated."""
        return self.root / "revisions"

    @property
    def registry(self) -> Path:
        """The registry's SQLite file."""
        return self.root / "registry.db"

    @property
    def control_socket(self) -> Path:
        """Where commands go."""
        return self.root / "control.sock"

    @property
    def bus_socket(self) -> Path:
        """Where data workers hear news."""
        return self.root / "bus.sock"

    @property
    def demo(self) -> Path:
        """The marker of a demo's directory, with its addresses and keys."""
        return self.root / DEMO_MARKER

    def socket_path_fits(self) -> bool:
        """Whether the sockets' paths are short enough for the system."""
        return len(os.fsencode(self.control_socket)) <= MAX_SOCKET_PATH

    def pseudonym_key(self) -> bytes:
        """The key of all keyed hashes, made on first use.

        Raises:
            ValueError: the file holds something else.
        """
        path = self.keys / "pseudonym.key"
        try:
            descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        except FileExistsError:
            key = path.read_bytes()
            if len(key) != PSEUDONYM_KEY_BYTES:
                raise ValueError(f"{path} is not a key of {PSEUDONYM_KEY_BYTES} bytes") from None
            return key
        with os.fdopen(descriptor, "wb") as file:
            key = secrets.token_bytes(PSEUDONYM_KEY_BYTES)
            file.write(key)
        return key

    def claim(self) -> int:
        """Take the directory for this gateway; the lock ends with the process.

        Returns:
            The descriptor that holds the lock.

        Raises:
            StateInUse: another gateway has it.
        """
        descriptor = os.open(self.root / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(descriptor)
            raise StateInUse(f"a gateway already runs in {self.root}") from None
        return descriptor
