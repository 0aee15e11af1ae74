"""The way in with a code from a card, a receipt or a friend.

Promises: a code that was mistyped is told from one that was never issued, so that a slip of the finger is never counted
as a guess; a code is shown again only to who typed it.
"""

from __future__ import annotations

from datetime import datetime

from sqlalchemy import Connection

from portal import grants, vouchers
from portal.access import Reason
from portal.grants import Grant, Refused
from portal.keys import Keyring


def attempt(db: Connection, keyring: Keyring, network_id: int, typed: str, now: datetime) -> Grant:
    """The grant of the code that was typed, whatever is left of it; sessions.open refuses what is used up.

    Raises Refused: CODE_MISTYPED for what can be no code, CODE_UNKNOWN for one that this network never issued.
    """
    code = vouchers.normalise(typed)
    if code is None:
        raise Refused(Reason.CODE_MISTYPED)
    found = vouchers.find(db, keyring, network_id, code)
    if found is None:
        raise Refused(Reason.CODE_UNKNOWN)
    return grants.load(db, found.grant_id, now)


def likely_slip(typed: str) -> tuple[int | None, str]:
    """The place, from 1, of the sign that was most likely mistyped, and what it may be; (None, "") if none stands out.

    Rests on the check character alone, never on what was issued, so that it gives nothing away.
    """
    return vouchers.hint(typed) or (None, "")


def as_printed(typed: str) -> str:
    """A typed code as it stands on its card; "" for what is none."""
    code = vouchers.normalise(typed)
    return "" if code is None else vouchers.grouped(code)
