"""The composition root: each kind of process, built from ``Settings``, in a module of its own.

``data`` is a data worker: it holds provider keys, the request path and the table of running
exchanges. ``control`` is the control process: the registry, the policy's life, console, API and
bundles, and no provider key. Each writes its own shard of the log (``opening``). ``supervisor``
starts them as ``python -m gateway.app.data`` and ``python -m gateway.app.control`` and watches
them; they share no import that only one of them needs.
"""
