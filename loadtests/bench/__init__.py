"""What a committed poll costs: the product beside every alternative, in one run, on one database."""
