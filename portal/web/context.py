"""What every page of ours is handed: the program's parts, built once by the composition root.

Promises nothing and holds nothing of its own; there is one, and it never changes.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime

from portal.config import Settings
from portal.gateways import Gateways
from portal.keys import Keyring
from portal.metrics import Metrics
from portal.offload import Offload
from portal.store import Store


@dataclass(frozen=True, slots=True)
class Portal:
    """The parts that guests' and operators' pages are made of. `clock` is the time, aware, in UTC."""

    settings: Settings
    store: Store
    keyring: Keyring
    gateways: Gateways
    offload: Offload
    clock: Callable[[], datetime]
    metrics: Metrics = field(default_factory=Metrics)
