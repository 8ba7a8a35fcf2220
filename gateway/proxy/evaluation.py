"""The action that a body asks for; all other facts are made in ``core.evaluation``."""

from __future__ import annotations

from gateway.core.evaluation import name_of
from gateway.core.facts import Action, ActionProperties, Wire
from gateway.wire.request import RequestBody

__all__ = ["action_of"]


def action_of(wire: Wire, body: RequestBody) -> Action:
    """What a body asks for, without a word of what it says."""
    return Action(
        name=name_of(wire),
        properties=ActionProperties(
            wire=wire,
            stream=body.stream,
            background=body.background,
            store=body.store,
            max_output_tokens=body.max_output_tokens,
            tool_kinds=body.tool_kinds,
            custom_tools=body.custom_tools,
            program=body.program,
            remote_fetch=body.remote_fetch,
        ),
    )
