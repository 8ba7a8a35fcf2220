"""The edge: makes an ``Exchange`` of a request and runs it through the pipeline.

This is the one place of the data plane where an unforeseen exception is caught: it is logged
without the request's content. The pipeline has answered by then, as for any other refusal.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Sequence

import structlog
from msgspec.structs import replace

from gateway.proxy.exchange import ClientChannel, Exchange, Request
from gateway.proxy.network import client_address
from gateway.proxy.pipeline import Pipeline

__all__ = ["Entry"]

_log = structlog.get_logger("sluicegate.data")


class Entry:
    """What a data worker's connections hand their requests to.

    Args:
        pipeline: the request path.
        trusted: networks of the proxies whose forwarded headers count.
    """

    def __init__(
        self,
        pipeline: Pipeline,
        trusted: Sequence[ipaddress.IPv4Network | ipaddress.IPv6Network] = (),
    ) -> None:
        self._pipeline = pipeline
        self._trusted = trusted

    async def serve(self, request: Request, channel: ClientChannel) -> None:
        """Serve one HTTP request."""
        if self._trusted:
            address = client_address(request.address, request.headers, self._trusted)
            request = replace(request, address=address)
        exchange = Exchange(request, channel)
        try:
            await self._pipeline.run(exchange)
        except Exception as error:  # noqa: BLE001 - the edge of the data plane
            _log.error(
                "internal_error",
                request_id=exchange.request_id,
                error=type(error).__name__,
                where=_where(error),
            )
            if not exchange.answer.complete:
                channel.abort()


def _where(error: BaseException) -> str:
    """File and line of a fault, without the values that a traceback may quote."""
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    if trace is None:
        return ""
    code = trace.tb_frame.f_code
    return f"{code.co_filename.rpartition('gateway/')[2]}:{trace.tb_lineno}"
