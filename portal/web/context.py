"""What every page of ours is handed: the program's parts, built once by the composition root.

Promises nothing and holds nothing of its own; there is one, and it never changes.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime

from portal.config import Settings
from portal.gateways import Gateways
from portal.keys import Keyring
from portal.store import Store


@dataclass(frozen=True, slots=True)
class Portal:
    """The parts that guests' and operators' pages are made of.

    `verify_password(hash, password)` and `hash_password(password)` run off the event loop and raise
    offload.Busy when too many wait; `clock` is the time, aware, in UTC.
    """

    settings: Settings
    store: Store
    keyring: Keyring
    gateways: Gateways
    verify_password: Callable[[str, str], bool]
    hash_password: Callable[[str], str]
    clock: Callable[[], datetime]
