"""Checks that what clients saw of a store is explained by one copy of it, one operation at a time.

A run is recorded as a `history.History`. `checker.check` searches an order of its operations that
explains every answer and agrees with real time; `cheap` has further checks whose cost is bounded.
`python -m tests.linear FILE...` checks saved histories again. `planting` makes histories that are
sound, or wrong in a known way, to prove the checks.
"""
