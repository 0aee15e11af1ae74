"""The way in with an account: a user name and a password.

Promises: an account that does not exist takes as long as one that does, and is refused in the same words; no connection
is held while a password is checked. A blocked account is told so only to whoever knows its password.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime

from portal import grants, guests
from portal.access import Reason
from portal.grants import Grant, Refused
from portal.store import Store

Verify = Callable[[str | None, str], bool]


def attempt(store: Store, network_id: int, username: str, password: str, verify: Verify, now: datetime) -> Grant:
    """The grant of the account with that password, whatever is left of it; sessions.open refuses what is used up.

    `verify(hash, password)` is offload.verify_password: it takes a while, off the event loop, and raises Busy.
    Raises Refused: WRONG_PASSWORD, or REVOKED for an account that was blocked.
    """
    with store.read("guests", caller="account") as db:
        account = guests.look_up(db, network_id, username)
    right = verify(None if account is None else account.password_hash, password[: guests.LONGEST_PASSWORD + 1])
    if account is None or not right:
        raise Refused(Reason.WRONG_PASSWORD)
    with store.transaction("guests", caller="account") as db:
        grant = grants.load(db, account.grant_id, now)
        if account.blocked_at is not None:
            raise Refused(Reason.REVOKED, grant, until=account.blocked_at)
        guests.seen(db, account, now)
    return grant
