"""Servers that are busy with an endless script: the commands that reach them, and the commands that
end the script."""

import contextlib

import hiredis
import pytest

from tests.client import Client
from tests.integration.conftest import pool
from tests.scripted import ScriptedServer, keys_of
from tests.servers import NutproxyServer, RedisServer, wait_until

ENDLESS = "while true do end"
# Milliseconds after which Redis accepts other commands while a script runs.
LIMIT = ("--lua-time-limit", "50")


@contextlib.contextmanager
def busy(*arguments, count=2, resp="2", **options):
    """A proxy without a timeout in front of servers. The first one runs an endless script. Yields
    the servers, the proxy, the client that waits for the script, and another client."""
    with contextlib.ExitStack() as stack:
        servers = [stack.enter_context(RedisServer(*LIMIT, *arguments)) for _ in range(count)]
        proxy = stack.enter_context(NutproxyServer(pool("alpha", servers, **options)))
        client, other = [stack.enter_context(Client(proxy.port)) for _ in range(2)]
        if "redis_auth" in options:
            assert client("AUTH", options["redis_auth"]) == b"OK"
            assert other("AUTH", options["redis_auth"]) == b"OK"
        assert other("HELLO", resp)
        [key] = keys_of(1, range(1, count + 1), 1)
        client.send("EVAL", ENDLESS, "1", key)
        wait_until(lambda: is_busy(servers[0]), "the script")
        yield servers, proxy, client, other


def is_busy(server):
    with Client(server.unix_path) as direct:
        return str(direct("PING")).startswith(("BUSY", "NOAUTH"))


@pytest.mark.parametrize("resp", ["2", "3"])
@pytest.mark.parametrize("count", [1, 3])
def test_script_kill_reaches_a_script_that_runs_on_the_clients_connection(resp, count):
    with busy(count=count, resp=resp) as (_, proxy, waiting, killer):
        assert killer("SCRIPT", "KILL") == b"OK"
        assert "Script killed by user" in str(waiting.reply())
        assert waiting("SET", "a", "1") == b"OK"
        assert killer.error("SCRIPT", "KILL").startswith("NOTBUSY ")
        wait_until(lambda: proxy.stats()["alpha"]["s1"]["server_connections"] <= 2, "the end")


def test_script_kill_reaches_a_server_with_a_password_and_a_database():
    options = {"redis_auth": "secret", "redis_db": 3}
    with busy("--requirepass", "secret", **options) as (_, _, waiting, killer):
        assert killer("SCRIPT", "KILL") == b"OK"
        assert "Script killed by user" in str(waiting.reply())


def test_script_kill_says_why_a_script_that_has_written_cannot_be_killed():
    """The other server's NOTBUSY must not hide the error."""
    script = "redis.call('SET', KEYS[1], 'x') while true do end"
    with (
        RedisServer(*LIMIT) as one,
        RedisServer(*LIMIT) as two,
        NutproxyServer(pool("alpha", [one, two], admin_commands="true")) as proxy,
        Client(proxy.port) as waiting,
        Client(proxy.port) as killer,
    ):
        for server, number in ((one, 1), (two, 2)):
            [key] = keys_of(number, (1, 2), 1)
            waiting.send("EVAL", script, "1", key)
            wait_until(lambda server=server: is_busy(server), "the script")
            assert killer.error("SCRIPT", "KILL").startswith("UNKILLABLE ")
            server.kill()
            assert "Connection reset by peer" in str(waiting.reply())
            server.restart()


@pytest.mark.parametrize("count", [1, 2])
def test_function_kill_and_stats_and_shutdown_nosave_reach_a_busy_server(count):
    with busy(count=count, admin_commands="true") as (servers, _, waiting, admin):
        # Redis replies with BUSY while a script runs. FUNCTION STATS shows only functions.
        assert admin.error("FUNCTION", "STATS").startswith("BUSY ")
        assert isinstance(admin("FUNCTION", "KILL"), hiredis.ReplyError)
        assert admin("SHUTDOWN", "NOSAVE") == b"OK"
        assert "Connection reset by peer" in str(waiting.reply())
        for server in servers:
            wait_until(lambda server=server: not server.running(), "a server to exit")


@pytest.mark.parametrize("count", [1, 2])
def test_function_stats_show_a_function_running_on_one_server_and_function_kill_ends_it(count):
    library = f"#!lua name=endless\nredis.register_function('f', function() {ENDLESS} end)"
    with contextlib.ExitStack() as stack:
        servers = [stack.enter_context(RedisServer(*LIMIT)) for _ in range(count)]
        proxy = stack.enter_context(NutproxyServer(pool("alpha", servers)))
        waiting, other = [stack.enter_context(Client(proxy.port)) for _ in range(2)]
        assert other("FUNCTION", "LOAD", library) == b"endless"
        [key] = keys_of(count, range(1, count + 1), 1)
        waiting.send("FCALL", "f", "1", key)
        wait_until(lambda: is_busy(servers[-1]), "the function")
        stats = other("FUNCTION", "STATS")
        assert stats[0] == b"running_script"
        assert stats[1][:2] == [b"name", b"f"]
        assert other("FUNCTION", "KILL") == b"OK"
        assert "Script killed by user" in str(waiting.reply())


def test_many_script_kills_share_one_connection():
    with busy(count=1) as (_, proxy, waiting, _), contextlib.ExitStack() as stack:
        before = proxy.stats()["total_connections"]
        killers = [stack.enter_context(Client(proxy.port)) for _ in range(20)]
        proxy.stop()
        for killer in killers:
            killer.pipeline(*[("SCRIPT", "KILL")] * 20)
        proxy.cont()
        for killer in killers:
            # Redis may read any number of them before it stops the script.
            assert {str(reply)[:7] for reply in killer.replies(20)} <= {"b'OK'", "NOTBUSY"}
        assert "Script killed by user" in str(waiting.reply())
        assert proxy.stats()["total_connections"] - before < 20 + 5


@pytest.mark.parametrize("resp", ["2", "3"])
def test_clients_log_in_while_a_script_runs_once_the_servers_version_is_known(resp):
    """Without the version, HELLO would wait for the server connection on which the script runs."""
    with busy(count=1, resp=resp) as (_, proxy, waiting, killer), Client(proxy.port) as late:
        greeting = late("HELLO", resp)
        fields = greeting if resp == "3" else dict(zip(greeting[::2], greeting[1::2], strict=True))
        assert fields[b"proto"] == int(resp)
        assert fields[b"version"] != b"unknown"
        assert killer("SCRIPT", "KILL") == b"OK"
        assert "Script killed by user" in str(waiting.reply())


@pytest.mark.parametrize("length", [100, 20_000_000])
def test_the_connection_for_script_kill_is_closed_after_any_reply(length):
    """Also after one that is dropped because it is too long."""

    def script(session):
        while session.receive():
            session.send(b"+" + b"x" * length + b"\r\n")

    with (
        ScriptedServer(script) as server,
        NutproxyServer(pool("alpha", [server])) as proxy,
        Client(proxy.port) as client,
    ):
        client("SCRIPT", "KILL")
        wait_until(
            lambda: proxy.stats()["alpha"]["s1"]["server_connections"] == 0, "no connection for it"
        )
