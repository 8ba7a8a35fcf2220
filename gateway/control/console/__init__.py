"""The console: pages for who reads the record and settles what is in it."""

from gateway.control.console.application import console_app

__all__ = ["console_app"]
