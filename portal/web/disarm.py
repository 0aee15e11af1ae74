"""Other people's words, made harmless for whoever searches a whole reply for an answer.

A gateway takes the first answer it finds anywhere; so a network of that name, or a guest who types it, must never be
able to give one. The page looks the same.
"""

from portal import wifidog

_SPELT = tuple((word, f"&#{ord(word[0])};{word[1:]}") for word in wifidog.SEARCHED)


def disarmed(html: str) -> str:
    """The page with what gateways search for spelt by references that only a browser reads."""
    for word, spelt in _SPELT:
        html = html.replace(word, spelt)
    return html
