"""Gatepost: the authentication server for guest Wi-Fi behind WiFiDog gateways."""

__version__ = "0.1.0"
