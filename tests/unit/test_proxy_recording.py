"""What a call is charged (invariant 6)."""

from types import SimpleNamespace

from gateway.proxy.recording import MOST_TOKENS, tokens_used
from gateway.wire.answers import Usage


def used(usage, *, complete=True):
    exchange = SimpleNamespace(
        upstream_status=200, usage=usage, answer=SimpleNamespace(complete=complete)
    )
    return tokens_used(exchange)


def test_a_call_is_charged_what_its_endpoint_counted():
    assert used(Usage(300, 12)) == {"input_tokens": 300, "output_tokens": 12}
    assert used(Usage(300, 12), complete=False) == {"input_tokens": 300}
    assert used(None) == {}


def test_a_count_that_no_call_can_have_does_not_shut_a_member_out_for_good():
    endless = used(Usage(2**52, 2**52))
    assert endless == {"input_tokens": MOST_TOKENS, "output_tokens": MOST_TOKENS}
