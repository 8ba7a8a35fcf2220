"""Records as syslog messages (RFC 5424), framed by their length (RFC 5425). Pure.

All of a message is printable ASCII: the JSON in it is written with escapes, so that no text of a
record is a control character, or the end of a line, to whoever shows it.
"""

from __future__ import annotations

import json
import re

from gateway.audit.stream import Encoding, Item, Rendering

__all__ = ["syslog_encoding"]

AUDIT_FACILITY = 13
"""Log audit (RFC 5424, table 1)."""
_INFORMATIONAL = 6
_SEVERITY = {
    "access.denied": 5,
    "access.refused_summary": 5,
    "registry.tampered": 1,
    "policy.rejected": 4,
    "policy.engine_error": 3,
    "log.recovered": 4,
    "export.replaced": 4,
}
"""By record type (RFC 5424, table 2); others are informational."""
_TIME = re.compile(r"(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(?:\.\d{1,6})?)\d*Z")
"""At most six digits of a second (RFC 5424, section 6.2.3); a record has nine."""
_UNPRINTABLE = re.compile(r"[^!-~]")
_IN_VALUE = re.compile(r'(["\\\]])')
_NIL = "-"


def syslog_encoding(render: Rendering, enterprise_id: int) -> Encoding:
    """Messages with the record as JSON, and its key as structured data.

    Args:
        render: makes the JSON.
        enterprise_id: whose the name ``sluicegate@…`` of the structured data is.
    """

    def event(item: Item) -> bytes:
        record = item.record
        kind = str(record.get("type", ""))
        priority = AUDIT_FACILITY * 8 + _SEVERITY.get(kind, _INFORMATIONAL)
        gateway = record.get("gateway")
        node = gateway.get("node", "") if isinstance(gateway, dict) else ""
        head = " ".join(
            (
                f"<{priority}>1",
                _time(record.get("time")),
                _name(node, 255),
                "sluicegate",
                _name(str(record["log"]).rpartition("/")[2], 128),
                _name(kind, 32),
                f'[sluicegate@{enterprise_id} key="{_value(item.key)}"]',
            )
        )
        message = f"{head} {_ascii(render(item))}".encode("ascii")
        return b"%d %s" % (len(message), message)

    return Encoding(event)


def _time(text: object) -> str:
    found = _TIME.fullmatch(text) if isinstance(text, str) else None
    return f"{found[1]}Z" if found else _NIL


def _name(text: object, most: int) -> str:
    """A field of the head: printable, without a space, of a bounded length."""
    return _UNPRINTABLE.sub("_", str(text))[:most] or _NIL


def _value(text: str) -> str:
    """A value of structured data (RFC 5424, section 6.3.3)."""
    return _IN_VALUE.sub(r"\\\1", _UNPRINTABLE.sub("_", text))


def _ascii(rendered: bytes) -> str:
    """The same JSON, the exact same text where it is ASCII."""
    if rendered.isascii() and rendered.decode("ascii").isprintable():
        return rendered.decode("ascii")
    return json.dumps(json.loads(rendered), ensure_ascii=True, separators=(",", ":")).replace(
        "\x7f", "\\u007f"
    )
