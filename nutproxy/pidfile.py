# nutproxy/pidfile.py: the pid file
"""Contains the process id for scripts that send signals, and keeps a second process from starting.

    lock ──> a file that no process has locked is taken over, whatever it contains
    write ─> once the process listens, so that a script that finds a pid can send it signals
    remove ─> at the end, unless another file is at the path by then

The kernel releases the lock (flock) when the process ends, however it ends. The lock tells whether
a process runs; the number in the file only tells which one.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import stat

from nutproxy.log import reason


def open_regular(path: str) -> int:
    """Open a regular file, or create it. Any other kind is refused: the file is removed at the end,
    and that must never happen to a device such as /dev/null."""
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NONBLOCK | os.O_NOCTTY, 0o644)
    if not stat.S_ISREG(os.fstat(fd).st_mode):
        os.close(fd)
        raise OSError(errno.EINVAL, "it is not a regular file")
    return fd


class PidFile:
    """The file at `path`, locked. Raises OSError with a text that names the file and the process
    that holds it."""

    def __init__(self, path: str) -> None:
        self.path = path
        self.fd = -1
        while not self.is_ours():
            self.close()
            try:
                self.fd = open_regular(path)
            except OSError as error:
                text = f"cannot write the pid file '{path}': {reason(error)}"
                raise OSError(error.errno, text) from error
            self.lock()

    def lock(self) -> None:
        try:
            fcntl.flock(self.fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            pid = os.pread(self.fd, 20, 0).decode(errors="replace").strip()
            self.close()
            if error.errno not in (errno.EWOULDBLOCK, errno.EAGAIN):
                text = f"cannot lock the pid file '{self.path}': {reason(error)}"
                raise OSError(error.errno, text) from error
            holder = f"process {pid}" if pid.isdigit() else "a process that is starting"
            text = f"the pid file '{self.path}' is held by {holder}; stop it, or give another -p"
            raise OSError(error.errno, text) from error

    def is_ours(self) -> bool:
        """Is the file at the path still the one that is open? Its holder may have removed it
        meanwhile, or another process may have replaced it."""
        if self.fd < 0:
            return False
        try:
            return os.path.samestat(os.fstat(self.fd), os.stat(self.path))
        except FileNotFoundError:
            return False

    def write(self) -> None:
        """Write the id of this process."""
        try:
            os.ftruncate(self.fd, 0)
            os.pwrite(self.fd, f"{os.getpid()}\n".encode(), 0)
        except OSError as error:
            text = f"cannot write the pid file '{self.path}': {reason(error)}"
            raise OSError(error.errno, text) from error

    def remove(self) -> None:
        """Remove the file and release the lock."""
        with contextlib.suppress(OSError):
            if self.is_ours():
                os.unlink(self.path)
        self.close()

    def close(self) -> None:
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1
