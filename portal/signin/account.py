"""The way in with an account: a user name and a password.

Promises: an account that does not exist takes as long as one that does, and is refused in the same words; no connection
is held while a password is checked. A blocked account is told so only to whoever knows its password. A password that
was hashed with older parameters is hashed anew, and whether that succeeds is nothing to its guest.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from datetime import datetime

from portal import grants, guests
from portal.access import Reason
from portal.grants import Grant, Refused
from portal.guests import Account
from portal.offload import Busy
from portal.store import Store, Unavailable

Verify = Callable[[str | None, str], bool]
Renew = Callable[[str, str], str | None]

log = logging.getLogger(__name__)


def attempt(
    store: Store, network_id: int, username: str, password: str, verify: Verify, renew: Renew, now: datetime
) -> Grant:
    """The grant of the account with that password, whatever is left of it; sessions.open refuses what is used up.

    `verify(hash, password)` is offload.verify_password, and `renew(hash, password)` is offload.renewed: they take a
    while, off the event loop, and raise Busy.
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
    _renew(store, account, password, renew)
    return grant


def _renew(store: Store, account: Account, password: str, renew: Renew) -> None:
    """Keep the password under today's parameters; at another sign-in, if that cannot be done just now."""
    try:
        renewed = renew(account.password_hash, password)
        if renewed is not None:
            with store.transaction("guests", caller="renew password") as db:
                guests.renew_password(db, account, renewed)
    except (Busy, Unavailable) as error:
        log.info("a password was not hashed anew", extra={"guest": account.id, "error": type(error).__name__})
