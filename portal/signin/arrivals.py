"""What is asked of a guest who arrives, whichever way he takes in: a way back, and a form that we made for him.

Promises: a browser is sent on only to the address that the operator recorded, or, while there is none, to a literal
private one; a form is good for one gateway and one station, for ten minutes, and needs no cookie. Pure.
"""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Final

from portal.gateways import GatewayFacts
from portal.keys import Keyring
from portal.wifidog import Arrival, private_literal

FORM_LIFE: Final = timedelta(minutes=10)
_FORM: Final = "guest form"


class NoWayBack(Exception):
    """The browser cannot be sent back to its gateway: none is recorded, and what it claims is no private address."""


def way_back(gateway: GatewayFacts, arrival: Arrival) -> tuple[str, int]:
    """Address and port of the gateway's own web server, to which the browser takes its token. Raises NoWayBack.

    A public or named address in the arrival is refused also where another one is recorded: an honest gateway sends no
    such thing, so whoever made that link meant to catch the token.
    """
    claimed = private_literal(arrival.gw_address)
    if gateway.address is not None:
        if arrival.gw_address and claimed is None and arrival.gw_address.lower() != gateway.address:
            raise NoWayBack
        return gateway.address, gateway.port
    if claimed is None or arrival.gw_port is None:
        raise NoWayBack
    return claimed, arrival.gw_port


def form_nonce(keyring: Keyring, gateway_id: int, mac: str, terms_version: int, now: datetime) -> str:
    """What a form carries so that nobody else's page can send it: bound to gateway, station and the terms shown."""
    payload = f"{gateway_id} {terms_version} {mac}".encode()
    return keyring.sign(_FORM, payload, int((now + FORM_LIFE).timestamp()))


def accepted_terms(keyring: Keyring, nonce: str, gateway_id: int, mac: str, now: datetime) -> int | None:
    """The version of the terms that a form showed, or None if it is not a form for this gateway and station, or old."""
    payload = keyring.unsign(_FORM, nonce, int(now.timestamp()))
    if payload is None:
        return None
    made_for, version, station = payload.decode().split(" ")
    return int(version) if made_for == str(gateway_id) and station == mac else None
