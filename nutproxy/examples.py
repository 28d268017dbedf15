# nutproxy/examples.py: the example files that are installed with nutproxy
"""Configurations to begin with, and files for systemd and logrotate.

In a checkout they are in conf/ and contrib/; a build copies them to nutproxy/share/ (see setup.py).
"""

from pathlib import Path

PACKAGE = Path(__file__).parent
# The first of these that has the file is used.
PLACES = (PACKAGE / "share", PACKAGE.parent / "conf", PACKAGE.parent / "contrib")

EXAMPLES = {
    "nutproxy.yml": "a Redis pool of two servers: start with this file",
    "application.yml": "a Redis pool with databases, transactions, queues and publish/subscribe",
    "memcached.yml": "a Memcached pool of three servers, as a cache",
    "twemproxy.yml": "every key of twemproxy and every form of its addresses",
    "nutproxy.service": "a systemd unit",
    "nutproxy.logrotate": "a logrotate file for the log",
}


def read(name: str) -> str:
    """The text of an example. Raises OSError where nutproxy was installed without it."""
    found = next((place for place in PLACES if (place / name).is_file()), PLACES[0])
    return (found / name).read_text(encoding="utf-8")
