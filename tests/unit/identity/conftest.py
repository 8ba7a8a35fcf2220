"""A directory of two organisations, an issuer with keys, and a clock that tests can move."""

from __future__ import annotations

import json
from dataclasses import dataclass, field

import pytest
from joserfc import jwk, jwt
from joserfc.jws import JWSRegistry

from gateway.core.clock import Clock
from gateway.core.entities import Credential, Issuer, Member, Organisation
from gateway.core.protocols import FetchFailed
from gateway.identity.api_keys import mint
from gateway.identity.identify import Identifier

NOW = 1_800_000_000.0
ISS, AUD = "https://id.acme.example", "https://gate.example"


class Directory:
    """Implements ``core.protocols.Directory`` over plain dictionaries, and counts look-ups."""

    def __init__(self):
        self.epoch = 7
        self.generation = 1
        self.lookups = 0
        self.organisations, self.members, self.credentials, self.issuers = {}, {}, {}, {}
        self.keys = {}

    def put(self, *entities):
        for each in entities:
            table = {
                Organisation: self.organisations,
                Member: self.members,
                Credential: self.credentials,
                Issuer: self.issuers,
            }[type(each)]
            table[each.id] = each
            if isinstance(each, Member):
                self.keys[each.id] = each.id.encode().ljust(32, b".")
        self.epoch += 1
        self.generation += 1

    def _find(self, table, **wanted):
        self.lookups += 1
        for each in table.values():
            if all(getattr(each, name) == value for name, value in wanted.items()):
                return each
        return None

    def credential(self, sha256):
        return self._find(self.credentials, sha256=sha256)

    def credential_by_id(self, credential_id):
        return self._find(self.credentials, id=credential_id)

    def member(self, member_id):
        return self._find(self.members, id=member_id)

    def member_by_external_id(self, organisation, external_id):
        return self._find(self.members, organisation=organisation, external_id=external_id)

    def organisation(self, organisation_id):
        return self._find(self.organisations, id=organisation_id)

    def issuer(self, issuer):
        return self._find(self.issuers, issuer=issuer)

    def issuer_by_id(self, issuer_id):
        return self._find(self.issuers, id=issuer_id)

    def subject_key(self, member_id):
        return self.keys.get(member_id)


@dataclass
class Time:
    """Both clocks, in seconds."""

    now: float = NOW

    def __call__(self):
        return self.now


@dataclass
class Issuing:
    """An issuer: signs, publishes, counts its visitors, and can be down."""

    keys: dict = field(default_factory=dict)
    down: bool = False
    visits: list = field(default_factory=list)

    def add(self, kid, kind="EC", size="P-256", **parameters):
        self.keys[kid] = jwk.generate_key(kind, size, {"kid": kid, **parameters})
        return self.keys[kid]

    def document(self):
        return json.dumps({"keys": [key.as_dict(private=False) for key in self.keys.values()]})

    async def fetch(self, url):
        self.visits.append(url)
        if self.down:
            raise FetchFailed("down")
        return self.document().encode()

    def claims(self, time, **changes):
        base = {
            "iss": ISS,
            "aud": AUD,
            "sub": "ada@acme",
            "client_id": "cli",
            "jti": "j-1",
            "iat": int(time()) - 10,
            "exp": int(time()) + 600,
        }
        return {name: value for name, value in (base | changes).items() if value is not ...}

    def sign(self, claims, kid="k1", alg="ES256", typ="at+jwt", key=None, **header):
        registry = JWSRegistry(algorithms=[alg], strict_check_header=False)
        whole = {"alg": alg, "kid": kid, "typ": typ, **header}
        whole = {name: value for name, value in whole.items() if value is not ...}
        return jwt.encode(
            whole, claims, key or self.keys[kid], registry=registry, default_type=None
        )


@dataclass
class World:
    """One member with a key and an issuer, and the identifier under test."""

    directory: Directory
    time: Time
    issuing: Issuing
    identifier: Identifier
    key: str

    def bearer(self, token):
        return self.identifier.identify({b"authorization": b"Bearer " + token.encode()})


@pytest.fixture
async def world():
    time, directory, issuing = Time(), Directory(), Issuing()
    issuing.add("k1")
    key = mint()
    directory.put(
        Organisation(id="acme", name="Acme", tiers={"cyber": 3}),
        Organisation(id="other", name="Other"),
        Member(id="ada", organisation="acme", name="Ada", external_id="ada@acme"),
        Member(id="eve", organisation="other", name="Eve", external_id="ada@acme"),
        Credential(
            id="key-1", member="ada", sha256=key.sha256, prefix=key.prefix, scopes=("read",)
        ),
        Issuer(
            id="idp",
            organisation="acme",
            issuer=ISS,
            jwks_uri=ISS + "/jwks",
            audience=AUD,
            algorithms=("ES256", "RS256"),
        ),
    )
    identifier = Identifier(directory, Clock(time, time), issuing.fetch, time)
    yield World(directory, time, issuing, identifier, key.text)
    await identifier.close()
