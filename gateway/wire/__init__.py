"""The wire room: what the protocols say, as pure functions of bytes (no sockets, no clock).

* ``framing``, ``routes``: is this a request we read, and what is it for
* ``strict_json``, ``request``, ``edits``: one reading of the body, its facts, its few edits
* ``headers``: what travels on in either direction
* ``answers``, ``sse``: what the upstream said, read in passing
* ``errors``, ``cuts``, ``rate_headers``, ``models``: what the gateway itself says
"""
