"""What the gateway knows without touching the world: facts, decisions, permits, reasons.

Everything here is pure (standard library and msgspec only), so every other room may import it
and it imports none of them.
"""
