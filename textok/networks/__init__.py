"""Networks that metrics and losses look at pictures with."""
