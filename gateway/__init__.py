"""Sluicegate: an access-control gateway for restricted model releases."""

__version__ = "0.1.0"
