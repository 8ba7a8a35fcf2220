"""Records for webhooks: Splunk's HTTP event collector, and plain NDJSON. Pure."""

from __future__ import annotations

import msgspec

from gateway.audit.stream import Encoding, Item, Rendering

__all__ = ["hec_encoding", "ndjson_encoding"]


def hec_encoding(render: Rendering, form: str) -> Encoding:
    """One object an event, one after another. The key is an indexed field, ``sluicegate_key``.

    Args:
        render: makes the event's JSON.
        form: ``ocsf`` or ``record``; it ends the source type.
    """

    def event(item: Item) -> bytes:
        gateway = item.record.get("gateway")
        node = gateway.get("node", "") if isinstance(gateway, dict) else ""
        about = {
            "source": item.record["log"],
            "sourcetype": f"sluicegate:{form}",
            "fields": {"sluicegate_key": item.key},
            "event": msgspec.Raw(render(item)),
        }
        if node:
            about["host"] = node
        if item.time_ns:
            seconds, rest = divmod(item.time_ns, 1_000_000_000)
            about["time"] = f"{seconds}.{rest // 1_000_000:03}"
        return msgspec.json.encode(about)

    return Encoding(event, joint=b"\n")


def ndjson_encoding(render: Rendering, form: str) -> Encoding:
    """One object a line: an OCSF event, whose ``metadata.uid`` is the key; or, so that a record's
    bytes stay as they are, ``{"key":…,"record":…}``."""

    def event(item: Item) -> bytes:
        rendered = render(item)
        if form == "ocsf":
            return rendered
        return msgspec.json.encode({"key": item.key, "record": msgspec.Raw(rendered)})

    return Encoding(event, joint=b"\n", tail=b"\n")
