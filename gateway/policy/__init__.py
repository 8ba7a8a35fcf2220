"""The policy room: bundles, the two engines that run them, and the judgement of one call.

``bundle`` and ``archive`` read a bundle, ``lint`` refuses what the engines would not answer
alike, ``lifecycle`` takes it from candidate to active, ``embedded`` and ``opa`` evaluate it, and
``judge`` joins directives, engine and memo. Nothing here forwards, records or answers.
"""
