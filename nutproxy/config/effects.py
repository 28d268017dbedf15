# nutproxy/config/effects.py: when a changed key takes effect
"""Every key of the file says in its row (model.py) what a reload does with another value of it. The
documentation is generated from that, and reload.py compares two configurations by it."""

from enum import Enum


class Effect(Enum):
    """The text is for the documentation."""

    AT_ONCE = "at once"
    CONNECTIONS = "for new connections"
    RING = "at once, and keys may get another server"
    LISTENER = "at once, and clients that are connected stay"
    RESTART = "only after a restart"
