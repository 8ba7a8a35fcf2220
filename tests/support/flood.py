"""A sender with nothing to lose: asks for what he is refused, as fast as he is answered.

``python flood.py PORT CONNECTIONS KEY`` (``-`` for no key) runs until it is killed.
"""

from __future__ import annotations

import asyncio
import sys

BODY = b'{"model":"mythos-5","max_tokens":10,"messages":[{"role":"user","content":"x"}]}'


async def ask(port: int, request: bytes) -> None:
    """One connection, opened again whenever it breaks."""
    while True:
        try:
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            while True:
                writer.write(request)
                head = (await reader.readuntil(b"\r\n\r\n")).lower()
                length = int(head.partition(b"content-length: ")[2].partition(b"\r\n")[0])
                await reader.readexactly(length)
        except (OSError, asyncio.IncompleteReadError):
            await asyncio.sleep(0.01)


async def main(port: int, connections: int, key: str) -> None:
    """All connections at once."""
    credential = "" if key == "-" else f"x-api-key: {key}\r\n"
    head = (
        "POST /v1/messages HTTP/1.1\r\nhost: gate\r\nanthropic-version: 2023-06-01\r\n"
        f"content-type: application/json\r\n{credential}content-length: {len(BODY)}\r\n\r\n"
    )
    await asyncio.gather(*(ask(port, head.encode() + BODY) for _ in range(connections)))


if __name__ == "__main__":
    asyncio.run(main(int(sys.argv[1]), int(sys.argv[2]), sys.argv[3]))
