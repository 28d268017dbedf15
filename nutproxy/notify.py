# nutproxy/notify.py: messages to the supervisor
"""systemd's notification protocol (sd_notify(3)), for units of `Type=notify`. A message is a
datagram of `NAME=value` lines to the socket that $NOTIFY_SOCKET names.

    Notifier(os.environ.get("NOTIFY_SOCKET"))(READY=1, STATUS="serving")

Without $NOTIFY_SOCKET nothing is sent. A message that cannot be sent is only logged.
"""

from __future__ import annotations

import logging
import socket

log = logging.getLogger("nutproxy")


class Notifier:
    """`address` is the path of a socket, or an abstract name of Linux after a leading @."""

    def __init__(self, address: str | None) -> None:
        self.address = address

    def __call__(self, **fields: int | str) -> None:
        if not self.address:
            return
        # A line break in a value would start another field.
        lines = (f"{name}={' '.join(str(value).split())}" for name, value in fields.items())
        name = "\0" + self.address[1:] if self.address.startswith("@") else self.address
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
                # Called in the loop, so it must not wait for a supervisor that does not read.
                sock.setblocking(False)
                sock.sendto("\n".join(lines).encode(), name)
        except OSError as error:
            log.warning("cannot notify the supervisor at %s: %s", self.address, error.strerror)
