# nutproxy/back/handshake.py: the first requests on a server connection
"""What nutproxy sends on a new connection to a server, and what it makes of the replies. There is a
class for each protocol: `Protocol.handshake`.

    versions                         the protocol versions that clients speak
    steps(server, link)              the names of the steps in their order, and the bytes of all
    judge(server, link, step, data)  what is wrong with the reply to a step, or None

The reply to a step must be the one that belongs to it: otherwise later replies would be paired with
the wrong requests. What a reply says about the server is set there: `version`, `no_resp3`,
`no_password`. If it refuses a state that clients have chosen, the link is `unfit`. A step "" means
that a reply came that nothing had asked for.
"""

from __future__ import annotations

import logging
import re
from typing import Any

import hiredis

from nutproxy.proto import errors
from nutproxy.proto.merge import decode

log = logging.getLogger("nutproxy")

NO_SLOT = -1  # Link.slot of a link that is not shared
UNASKED = errors.cause("unasked")
# The expected replies to the steps of Redis' handshake; the reply to HELLO is a map.
STEP_REPLIES = {"AUTH": b"OK", "SELECT": b"OK", "PING": b"PONG", "TRACKING": b"OK"}
# Errors in reply to PING from servers that still serve some requests and refuse the others.
PING_ERRORS = ("BUSY ", "MISCONF ", "NOPERM ", "MASTERDOWN ", "ERR unknown command")
# The client to which invalidations are to be sent has gone meanwhile: lane_ready sends another one.
NO_SUCH_CLIENT = errors.error("tracking_no_client")[1:-2].decode()
# The reply to AUTH of a server without a password: Redis 6 and later, and older.
NO_PASSWORD = (
    "ERR AUTH <password> called without any password configured",
    "ERR Client sent AUTH, but no password is set",
)


class RedisHandshake:
    versions = (2, 3)

    @staticmethod
    def steps(server: Any, link: Any) -> tuple[list[str], bytes]:
        """AUTH, HELLO, SELECT, PING and CLIENT TRACKING, as far as they are needed. PING finds out
        whether the server is ready: it is not while it loads its data or requires a password. On a
        link that is `aside`, only the commands that a server accepts while it runs a script. For a
        link that is borrowed, its CLIENT ID, with which CLIENT UNBLOCK can end its wait."""
        config, profile, aside = server.pool.config, link.profile, link.aside
        # A new connection begins with RESP2 and database 0.
        protover, database, _ = link.before.key if link.before else (2, 0, False)
        # Tuples of bytes. The types of hiredis allow only one word in a command.
        commands: list[Any] = []
        if config.redis_auth:
            commands.append((b"AUTH", config.redis_auth))
        if profile.protover != protover:
            commands.append((b"HELLO", b"%d" % profile.protover))
        if profile.database != database and not aside:
            commands.append((b"SELECT", b"%d" % profile.database))
        if not aside:
            commands.append((b"PING",))
            if link.slot == NO_SLOT:
                commands.append((b"CLIENT", b"ID"))
        steps = [command[0].decode() for command in commands]
        if profile.tracked and link.slot != NO_SLOT and server.redirect_id:
            # See invalidations.py. Without a listener yet, it follows later.
            link.redirect = server.redirect_id
            commands.append((b"CLIENT", b"TRACKING", b"ON", b"REDIRECT", b"%d" % link.redirect))
            steps.append("TRACKING")
        return steps, b"".join([hiredis.pack_command(command) for command in commands])

    @staticmethod
    def judge(server: Any, link: Any, step: str, data: bytes) -> str | None:
        [reply] = decode([data])
        refused = isinstance(reply, hiredis.ReplyError)
        if step == "CLIENT":
            # Too old for it, or not allowed to use it: nobody can be unblocked then.
            link.server_id = reply if isinstance(reply, int) else 0
            return None
        text = str(reply)
        if not step:
            return text if refused else UNASKED
        if not refused:
            return RedisHandshake.judge_words(server, link, step, reply)
        if text.startswith(("ERR max number of clients", "DENIED")):
            return text
        if step == "HELLO":
            server.no_resp3 = text.startswith(("ERR unknown command", "NOPROTO"))
            return errors.cause("hello", text)
        if step == "TRACKING":
            link.redirect = 0
            if text == NO_SUCH_CLIENT:
                return None
            link.unfit = True
            return errors.cause("tracking_refused", text)
        if step == "AUTH":
            if text.startswith(NO_PASSWORD):
                warn_no_password(server)
                return None
            return errors.cause("auth", text)
        if step == "SELECT":
            database = link.profile.database
            if database == server.pool.redis_db:
                return errors.cause("select", database, text)
            link.unfit = True
            return errors.cause("select_other", database, text)
        if text.startswith("LOADING "):
            return text
        if text.startswith("NOAUTH"):
            return errors.cause("auth_wanted", text)
        # It is up and answers.
        return None if text.startswith(PING_ERRORS) else errors.cause("ping", text)

    @staticmethod
    def judge_words(server: Any, link: Any, step: str, reply: object) -> str | None:
        """The same for a reply that is not an error."""
        if step == "HELLO" and link.profile.protover == 2 and isinstance(reply, list):
            return None
        if step == "HELLO" and isinstance(reply, dict) and reply.get(b"proto") == 3:
            version = reply.get(b"version")
            if isinstance(version, bytes):
                server.pool.server_version = version.decode(errors="replace") or None
            return None
        if step == "AUTH":
            server.no_password = False
        if reply == STEP_REPLIES.get(step):
            return None
        return str(server.unpaired(step, reply))


def warn_no_password(server: Any) -> None:
    """Warn once, and again only if the server has had a password meanwhile."""
    if not server.no_password:
        log.warning(
            "%s at %s has no password: redis_auth protects the pool, but not the server",
            server,
            server.address,
        )
    server.no_password = True


# The versions of memcached without meta commands.
WITHOUT_META = re.compile(r"(0|1\.[0-5])\.\d")


class MemcacheHandshake:
    versions = (2,)

    @staticmethod
    def steps(server: Any, link: Any) -> tuple[list[str], bytes]:
        return ["version"], b"version\r\n"

    @staticmethod
    def judge(server: Any, link: Any, step: str, data: bytes) -> str | None:
        """A server that has too many clients, or requires authentication, sends an error instead of
        its version."""
        reply = data.decode(errors="replace").partition("\r\n")[0].rstrip()
        word, _, version = reply.partition(" ")
        if step and word == "VERSION":
            # Another proxy may have no version to tell.
            server.version = version.strip()
            server.old = bool(WITHOUT_META.match(server.version))
            return None
        if reply.startswith(("ERROR", "CLIENT_ERROR", "SERVER_ERROR")):
            return reply
        refusal = str(server.unpaired(step, reply))
        return refusal if step else UNASKED
