"""Limits: rates, tokens and streams by subject, credential and organisation; and attempts.

``memory.MemoryLimiter`` serves one process, ``redis.RedisLimiter`` many; both answer with the
arithmetic of ``gcra``, so they give the same numbers. ``attempts.AttemptGuard`` is local.
"""
