"""The way in with nothing to type: a guest accepts the terms and gets the network's free plan.

Promises: one grant for each station and period, the next one after the plan's cool-down. A station is known by its
MAC alone, so whoever changes his gets another turn: that is a stated limit of this way, not an oversight.
"""

from __future__ import annotations

from datetime import datetime

from sqlalchemy import Connection

from portal import grants
from portal.access import Reason
from portal.grants import Grant, Refused
from portal.networks import Plan


def attempt(db: Connection, plan: Plan | None, mac: str | None, now: datetime) -> Grant:
    """The free grant of the station `mac`: its last one while something is left of it, else a new one.

    Raises Refused with the moment from which it works again, and for a way that is closed (no plan) or a station
    without a MAC, for which every click would be its first. To be called in the transaction that opens the session, so
    that a click which leads nowhere makes no grant.
    """
    if plan is None or mac is None:
        raise Refused(Reason.REVOKED)
    return grants.for_click(db, plan, plan.cooldown_seconds, mac, now)
