"""The command line: one module a group of commands, each thin.

Every command has ``--json`` where it has something to say to programs. Exit codes: 0 ok, 1 the
answer is no, 2 usage or configuration, 3 unavailable. A person never sees a traceback.
"""

from gateway.cli.main import main

__all__ = ["main"]
