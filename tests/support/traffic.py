"""Records of made-up calls, for logs of any size: the same seed gives the same calls."""

import asyncio
import random

from gateway.audit import records as r
from gateway.audit.writer import AuditLog

MODELS = ["opus-4.8", "fable-5", "mythos-5", "gpt-5.5-cyber", "glm-5.2"]
REVISIONS = ["sha256:" + digit * 64 for digit in "abc"]
DENIALS = [
    ("tier_too_low", "deny.tier", "deny"),
    ("vetting_expired", "deny.vetting", "deny"),
    ("wave_not_open", "deny.wave", "deny"),
    ("step_up_required", "step_up.mfa", "step_up"),
]
START_NS = 1_780_000_000_000_000_000


class Wall:
    """A clock that goes on by ``step_ns`` at each look."""

    def __init__(self, step_ns, start_ns=START_NS):
        self.now, self.step_ns = start_ns, step_ns

    def __call__(self):
        self.now += self.step_ns
        return self.now


def call(number, dice, members=1000):
    """The records of one call: a denial, or an intent and its outcome."""
    member = int(members * dice.random() ** 2)  # some call far more than others
    model = dice.choice(MODELS)
    allowed = dice.random() < 0.8
    code, rule, effect = ("allowed", "allow.tier", "allow") if allowed else dice.choice(DENIALS)
    request_id = f"req_{number:024x}"
    known = {
        "request_id": request_id,
        "decision_id": f"dec_{number:024x}",
        "subject": r.SubjectRef(
            id=f"member-{member}",
            org=f"org-{member % 40}",
            kind="member",
            credential=f"key-{member}",
            cred_kind="api_key",
            tiers={"cyber": member % 4},
            engagement=f"engagement-{member % 7}" if member % 3 == 0 else "",
        ),
        "src": r.SourceRef(hmac=f"hmac:1:{member % 500:032x}", country="DE"),
        "wire": "messages" if model in MODELS[:3] else "chat",
        "action": "model.generate",
        "decision": r.DecisionRef(
            effect=effect,
            revision=REVISIONS[min(number // 40_000, 2)],
            reasons=(r.ReasonRef(code=code, rule=f"data.sluicegate.{rule}"),),
            capture="digest",
            eval_us=250,
        ),
        "request": r.RequestRef(bytes=dice.randrange(200, 9000), sha256=dice.randbytes(32).hex()),
        "limits": (r.LimitTaken(name="requests", key="subject", limit=60, left=59),),
    }
    if not allowed:
        return [r.AccessDenied(http=403, reason=code, model=r.ModelRef(requested=model), **known)]
    status = "client_abort" if dice.random() < 0.02 else "ok"
    return [
        r.AccessIntent(
            model=r.ModelRef(requested=model, authorised=model, endpoint="practice"), **known
        ),
        r.AccessOutcome(
            request_id=request_id,
            status=status,
            http=200,
            served_model=f"{model}-2026",
            upstream=r.UpstreamRef(endpoint="practice", request_id=f"up_{number:x}", status=200),
            tokens=r.Tokens(input=120, output=dice.randrange(2000), usage_source="upstream"),
            response=r.ResponseRef(bytes=4000, sha256=dice.randbytes(32).hex(), finish="stop"),
            ttfb_ms=80,
            dur_ms=900,
        ),
    ]


def calls(count, seed=0, first=0):
    """The records of each of ``count`` calls."""
    dice = random.Random(seed)
    return [call(first + number, dice) for number in range(count)]


def write(directory, key, records, *, wall=None, segment_bytes=64 << 20):
    """A closed log of ``records`` (a list for each call), each durable before the next of its
    call; calls run side by side."""
    options = {} if wall is None else {"wall": wall}
    log = AuditLog.open(
        directory,
        key.name,
        key,
        node=r.Gateway(node=directory.name),
        segment_bytes=segment_bytes,
        **options,
    )

    async def all_of_them():
        rooms = asyncio.Semaphore(400)

        async def one(parts):
            async with rooms:
                for part in parts:
                    await log.append(part)

        await asyncio.gather(*[one(parts) for parts in records])

    with log:
        asyncio.run(all_of_them())
