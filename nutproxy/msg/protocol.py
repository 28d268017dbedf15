# nutproxy/msg/protocol.py: what the two protocols do differently
"""A Protocol is a table of functions and texts. Pools, clients, servers and messages have one, so
no code outside dispatch/ and proto/ needs to ask which protocol it is.

The two are in proto/protocols.py, and core.py adds the functions of the roles.
"""

import cython


@cython.cclass
class Protocol:
    """`code` is the first word of its error replies. The other texts are complete, except `stalled`
    and `too_much`, which `refuse` completes."""

    def __init__(
        self,
        name: str,
        mistaken: str,
        code: str,
        *,
        out_of_memory: bytes,
        internal_error: bytes,
        full: bytes,
        stalled: bytes,
        too_much: bytes,
    ):
        # The C members point into these.
        self.kept = (out_of_memory, internal_error, stalled, too_much)
        self.name = name
        self.mistaken = mistaken
        self.code = code
        self.full = full
        self.out_of_memory = out_of_memory
        self.internal_error = internal_error
        self.stalled = stalled
        self.too_much = too_much

    def __str__(self) -> str:
        return self.name
