"""The console: pages for who reads the record and settles what is in it."""

from gateway.control.console.application import console_app
from gateway.control.console.guard import Edge

__all__ = ["Edge", "console_app"]
