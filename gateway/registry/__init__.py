"""Organisations, members, credentials and issuers: a SQL store, read through a snapshot.

Every row names the record that made it and carries a MAC over its content (invariant 10). What
was changed behind the gateway is left out of the snapshot, which can only take access away, and
is reported as a finding.
"""
