"""Load that behaves like the field, for locust: a fleet of gateways, a crowd of guests, an operators' desk."""
