"""Ways in: one module for each, and what all of them ask of a guest who arrives.

Each way's `attempt` returns the grant that the guest has shown he may use, or raises grants.Refused with the reason.
None of them mints a token: sessions.open does, in the same transaction where the way needs one.
"""
