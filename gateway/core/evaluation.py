"""Facts from what is known of a caller and a call.

Pure: the same for admission, for a re-check, and for a report on who could do what at another time.
"""

from __future__ import annotations

from collections.abc import Mapping

from gateway.core.clock import Clock
from gateway.core.entities import Principal
from gateway.core.facts import (
    UNKNOWN_MODEL,
    Action,
    ActionName,
    ActionProperties,
    Context,
    CredentialFacts,
    Facts,
    Network,
    OrganisationFacts,
    Resource,
    Subject,
    SubjectProperties,
    Targets,
    Wire,
)

__all__ = ["context_of", "facts_of", "list_action", "name_of", "plain_action", "subject_of"]

_ACTIONS = {
    Wire.CHAT: ActionName.GENERATE,
    Wire.RESPONSES: ActionName.GENERATE,
    Wire.MESSAGES: ActionName.GENERATE,
    Wire.EMBEDDINGS: ActionName.EMBED,
    Wire.COUNT_TOKENS: ActionName.COUNT_TOKENS,
    Wire.MODELS: ActionName.LIST,
}
_NO_TARGETS = Targets(named=0, out_of_scope=0)


def subject_of(principal: Principal) -> Subject:
    """The subject that a principal is; a token's claims narrow its tiers and never raise them."""
    member, organisation = principal.member, principal.organisation
    return Subject(
        type=member.kind,
        id=member.id,
        properties=SubjectProperties(
            status=member.status,
            tiers=principal.tiers,
            roles=member.roles,
            purposes=member.purposes,
            vetting=member.vetting,
            nationalities=member.nationalities,
            residence=member.residence,
            sponsored=member.sponsored,
            organisation=OrganisationFacts(
                id=organisation.id,
                status=organisation.status,
                tiers=organisation.tiers,
                retention=organisation.retention,
                licences=organisation.licences,
                agreements=organisation.agreements,
            ),
            credential=CredentialFacts(
                id=principal.credential_id,
                kind=principal.kind,
                bound=principal.bound,
                expires_at=principal.expires_at,
                scopes=principal.scopes,
                amr=principal.amr,
                auth_time=principal.auth_time,
            ),
            engagement=principal.engagement,
        ),
    )


def name_of(wire: Wire) -> ActionName:
    """What a call on a wire does."""
    return _ACTIONS[wire]


def list_action(wire: Wire) -> Action:
    """Whether a plain call on ``wire`` would be let through: what a model list is made from."""
    return _plain(ActionName.LIST, wire)


def plain_action(wire: Wire) -> Action:
    """The least that a call on ``wire`` asks for: no tools, no stream, nothing stored."""
    return _plain(_ACTIONS[wire], wire)


def context_of(clock: Clock, network: Network, budgets: Mapping[str, str]) -> Context:
    """Time, place and coarse budget state."""
    time, calendar = clock.reading()
    return Context(
        time=time,
        calendar=calendar,
        clock=clock.state,
        network=network,
        signals={},
        targets=_NO_TARGETS,
        budgets=dict(budgets),  # type: ignore[arg-type]
    )


def facts_of(subject: Subject, action: Action, model: str | None, context: Context) -> Facts:
    """One evaluation; ``model`` is a catalogue id, or ``None`` for any id it does not hold."""
    return Facts(
        subject=subject,
        action=action,
        resource=Resource(type="model", id=model if model is not None else UNKNOWN_MODEL),
        context=context,
    )


def _plain(name: ActionName, wire: Wire) -> Action:
    return Action(
        name=name,
        properties=ActionProperties(
            wire=wire,
            stream=False,
            background=False,
            store=False,
            max_output_tokens=0,
            tool_kinds=(),
            custom_tools=0,
            program=None,
            remote_fetch=False,
        ),
    )
