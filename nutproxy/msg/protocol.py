# nutproxy/msg/protocol.py: what the two protocols do differently
"""A Protocol is a table of functions and texts. Pools, clients, servers and messages have one, so
no code outside dispatch/ and proto/ needs to ask which protocol it is.

The two are in proto/protocols.py, and core.py adds the functions of the roles.
"""

import cython


@cython.cclass
class Protocol:
    """The texts are complete error replies, except `stalled` and `too_much`, which `refuse`
    completes. `error(key, *words)` makes other error replies."""

    def __init__(
        self,
        name: str,
        other: tuple,
        error: object,
        *,
        out_of_memory: bytes,
        internal_error: bytes,
        too_many_clients: bytes,
        stalled: bytes,
        too_much: bytes,
    ):
        # The C members point into these.
        self.kept = (internal_error, stalled, too_much)
        self.name = name
        self.other = other
        self.error = error
        self.too_many_clients = too_many_clients
        self.memory_error = out_of_memory
        self.out_of_memory = out_of_memory
        self.internal_error = internal_error
        self.stalled = stalled
        self.too_much = too_much

    def __str__(self) -> str:
        return self.name
