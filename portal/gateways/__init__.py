"""Gateways: the routers that ask us about their guests, how far they are trusted, and when they fell silent.

Never answers a gateway and never decides about a guest. A caller that finds no gateway, or whose gateway's trust is
`Trust.KEY_MISSING`, answers neutrally.
"""

from portal.gateways.heartbeats import GatewayFacts, Health, Ping, Trust, adopted, health, heartbeats, inbox, roll_call
from portal.gateways.memory import Gateways
from portal.gateways.records import (
    EVERYWHERE,
    KEY_GRACE,
    LARGEST_INBOX,
    Gateway,
    add,
    adopt,
    by_gw_id,
    dismiss,
    edit,
    forget_keys,
    get,
    learn_device,
    make_key,
    newest_key,
    note_unknown,
    reached_at,
    record_address,
    replace,
    retire,
    router_lines,
    see_address,
)

__all__ = [
    "EVERYWHERE",
    "KEY_GRACE",
    "LARGEST_INBOX",
    "Gateway",
    "GatewayFacts",
    "Gateways",
    "Health",
    "Ping",
    "Trust",
    "add",
    "adopt",
    "adopted",
    "by_gw_id",
    "dismiss",
    "edit",
    "forget_keys",
    "get",
    "health",
    "heartbeats",
    "inbox",
    "learn_device",
    "make_key",
    "newest_key",
    "note_unknown",
    "reached_at",
    "record_address",
    "replace",
    "retire",
    "roll_call",
    "router_lines",
    "see_address",
]
