"""Why threaded portals hang: five mechanisms, each switched on alone. `python -m loadtests.why.run` tries them."""
