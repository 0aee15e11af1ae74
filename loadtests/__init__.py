"""Load tests: what the product costs, what others would cost, and why portals hang. Linux only."""
