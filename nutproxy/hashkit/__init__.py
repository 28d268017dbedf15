"""Hash functions and distributions, bit for bit twemproxy's."""
