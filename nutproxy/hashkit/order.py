# nutproxy/hashkit/order.py: which server is index 0
"""The order that gives servers their indexes."""


def server_order_key(name: bytes) -> tuple[int, bytes]:
    """Sorts hashed server names (and pool names) as twemproxy does: shorter first, then by bytes.

    `zz, server1, server2, server10`. The order in which servers are written down has no influence;
    for modula, and where two ketama points are equal, this order decides.
    """
    return len(name), name
