"""The registry's command groups: who may call.

Every change has a reason and an author, becomes a record, and answers with what is true now, where
it is recorded, and how many running streams it ended.
"""

from gateway.cli.issuers import issuers
from gateway.cli.keys import keys
from gateway.cli.members import members
from gateway.cli.organisations import organisations

__all__ = ["issuers", "keys", "members", "organisations"]
