"""The practice model endpoint: it speaks three generation protocols and contains no model.

It guarantees that every text it writes says so, that nothing a caller wrote is repeated but the
model's id, that it refuses a call without the provider key it was started with, and that a client
who leaves stops the answer. It shares no code with the gateway, so that the two prove each other:
the protocols are written here a second time, from the vendors' published clients.

``python -m gateway.demo.practice --port 9000 --key-file FILE [--pace 25]``
"""

from gateway.demo.practice.server import Practice

__all__ = ["Practice"]
