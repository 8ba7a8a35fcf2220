"""The demo: a practice model endpoint that shares no code with the gateway, and the tour.

Nothing here is needed to serve; ``sluicegate demo`` starts it and stamps its state as a demo's.
"""
