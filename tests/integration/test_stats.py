# tests/integration/test_stats.py: the counters, and the port that shows them
"""The statistics, with real servers. tests/compat/test_stats_nutcracker.py compares the figures
with twemproxy's."""

import contextlib
import json
import re
import shutil
import socket
import subprocess
import time
import urllib.error
import urllib.request

import pytest

from tests.client import Client, read_all, request
from tests.integration.conftest import mc_pool, pool
from tests.scripted import ScriptedServer, reply_to, reset
from tests.servers import (
    HOST,
    MemcachedServer,
    NutproxyServer,
    RedisServer,
    connect,
    free_ports,
    pipeline,
    wait_until,
)


@pytest.fixture
def redis():
    with RedisServer() as server:
        yield server


@contextlib.contextmanager
def proxy_of(*servers, **options):
    with NutproxyServer(pool("alpha", servers, **options)) as proxy:
        yield proxy


def alpha(proxy):
    return proxy.stats()["alpha"]


def one(proxy):
    """The figures of server s1."""
    return alpha(proxy)["s1"]


# The port.


def test_figures_are_of_the_moment(redis):
    with proxy_of(redis) as proxy, Client(proxy.port) as client:
        for number in range(1, 30):
            assert client("SET", "k", number) == b"OK"
            assert one(proxy)["requests"] == one(proxy)["responses"] == number
            assert alpha(proxy)["client_requests"] == number


def test_port_that_is_taken_stops_the_start(redis):
    with proxy_of(redis) as proxy:
        [port] = free_ports(1)
        text = proxy.config_file.read_text().replace(f":{proxy.port}", f":{port}")
        proxy.config_file.write_text(text)
        answer = subprocess.run(proxy.command(), capture_output=True, text=True)
        assert answer.returncode == 1
        assert answer.stderr == (
            f"nutproxy: cannot serve statistics on {HOST}:{proxy.stats_port}: Address already in"
            " use; -s chooses another port, -a another address\n"
        )


def test_port_0_opens_no_port(redis):
    with NutproxyServer(pool("alpha", [redis]), "-s", "0") as proxy:
        with Client(proxy.port) as client:
            assert client("PING") == b"PONG"
        with pytest.raises(ConnectionRefusedError):
            proxy.stats()


@pytest.mark.parametrize(
    "sent",
    [
        b"",
        b"stats\n",
        b"STATS\r\n",
        b"GET /\r\n",
        b"x" * 10_000,
        b"GE",
        b"\0\n",
        b"get / HTTP/1.1\r\n",
    ],
)
def test_a_request_that_is_not_http_gets_the_plain_report(redis, sent):
    with proxy_of(redis) as proxy, connect(proxy.stats_port) as connection:
        connection.sendall(sent)
        text = read_all(connection)
        assert text.startswith(b'{"service":"nutcracker"')
        assert text.endswith(b"}}}\n")


def http(proxy, *parts):
    """The lines of the head, and the body, of the reply to a request that is sent in these
    parts."""
    with connect(proxy.stats_port) as connection:
        for part in parts:
            connection.sendall(part)
        head, _, body = read_all(connection).partition(b"\r\n\r\n")
        return head.decode().split("\r\n"), body


@pytest.mark.parametrize("path", ["/", "/stats", "/stats?x=1"])
@pytest.mark.parametrize("more", [b"", b"x" * 10_000])
def test_http_gets_the_report_as_a_reply(redis, path, more):
    request = b"GET %s HTTP/1.1\r\nHost: x\r\nUser-Agent: curl\r\n\r\n" % path.encode()
    with proxy_of(redis) as proxy:
        head, body = http(proxy, request + more)
        assert head[0] == "HTTP/1.1 200 OK"
        assert f"Content-Length: {len(body)}" in head
        assert {"Content-Type: application/json", "Connection: close"} <= set(head)
        assert "alpha" in json.loads(body)


def test_http_head_and_refusals(redis):
    with proxy_of(redis) as proxy:
        head, body = http(proxy, b"HEAD / HTTP/1.0\r\n\r\n")
        assert (head[0], body) == ("HTTP/1.1 200 OK", b"")
        head, body = http(proxy, b"GET /metrics HTTP/1.1\r\n\r\n")
        assert (head[0], body) == (
            "HTTP/1.1 404 Not Found",
            b"the statistics are at / and /stats\n",
        )
        head, _ = http(proxy, b"POST / HTTP/1.1\r\nContent-Length: 1\r\n\r\n", b"x")
        assert head[0] == "HTTP/1.1 405 Method Not Allowed"
        assert "Allow: GET, HEAD" in head


def test_http_with_real_clients(redis):
    with proxy_of(redis) as proxy:
        url = f"http://{HOST}:{proxy.stats_port}/"
        with urllib.request.urlopen(url) as reply:
            assert "alpha" in json.load(reply)
        with pytest.raises(urllib.error.HTTPError, match="404"):
            urllib.request.urlopen(url + "x")
        curl = shutil.which("curl")
        if curl is not None:
            done = subprocess.run([curl, "-sS", url], capture_output=True, text=True, check=True)
            assert "alpha" in json.loads(done.stdout)


def test_a_slow_http_request_is_waited_for_and_delays_no_other_reader(redis):
    with proxy_of(redis) as proxy, connect(proxy.stats_port) as slow:
        slow.sendall(b"GET / HTTP/1.1\r\n")
        # Each of these lasts longer than the time in which a request must begin.
        for _ in range(3):
            with connect(proxy.stats_port) as plain:
                assert read_all(plain).endswith(b"}}}\n")
        slow.sendall(b"Host: x\r\n\r\n")
        assert read_all(slow).startswith(b"HTTP/1.1 200 OK\r\n")


def test_readers_beyond_the_limit_get_a_report_too(redis):
    """There are more readers than are served at once, and none of them has sent anything."""
    with proxy_of(redis) as proxy, contextlib.ExitStack() as stack:
        readers = [stack.enter_context(connect(proxy.stats_port)) for _ in range(50)]
        for reader in readers:
            assert read_all(reader).endswith(b"}}}\n")


def test_reader_that_sends_no_more_gets_everything(redis):
    with proxy_of(redis) as proxy, connect(proxy.stats_port) as connection:
        connection.shutdown(socket.SHUT_WR)
        assert read_all(connection).endswith(b"}}}\n")


def test_readers_that_do_not_read_do_not_keep_others_waiting(redis):
    """Each report is larger than what the sockets can buffer, and there are more readers than are
    served at once."""
    many = "".join(f"   - {HOST}:{redis.port}:1 server-{number}\n" for number in range(400))
    config = pool("alpha", [redis]) + many
    with NutproxyServer(config) as proxy, contextlib.ExitStack() as stack:
        for _ in range(100):
            lazy = stack.enter_context(socket.socket())
            lazy.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            lazy.connect((HOST, proxy.stats_port))
        for _ in range(3):
            assert len(alpha(proxy)) > 400
        with Client(proxy.port) as client:
            assert client("PING") == b"PONG"


# Gauges.


def test_gauges_are_zero_when_everybody_has_gone(redis):
    """The pool uses a unix socket, to which connects succeed at once."""
    config = (
        "alpha:\n  listen: auto\n  redis: true\n  server_connections: 4\n"
        f"  servers:\n   - {redis.unix_path}:1 s1\n"
    )
    with NutproxyServer(config) as proxy:
        for _ in range(3):
            with contextlib.ExitStack() as stack:
                clients = [stack.enter_context(Client(proxy.port)) for _ in range(8)]
                for client in clients:
                    assert client("SET", "k", "v") == b"OK"
                assert alpha(proxy)["client_connections"] == 8
                assert one(proxy)["server_connections"] == 4
            wait_until(lambda: alpha(proxy)["client_connections"] == 0)
            pipeline(redis.port, [("CLIENT", "KILL", "TYPE", "normal")])
            wait_until(lambda: one(proxy)["server_connections"] == 0)
        assert proxy.stats()["curr_connections"] == 1
        gauges = ["in_queue", "in_queue_bytes", "out_queue", "out_queue_bytes", "server_down"]
        assert [one(proxy)[name] for name in gauges] == [0] * 5


def test_queues_show_waiting_requests(redis):
    with proxy_of(redis) as proxy, Client(proxy.port) as client:
        assert client("SET", "k", "v") == b"OK"
        redis.stop()
        client.pipeline(*[("GET", "k")] * 5)
        wait_until(lambda: one(proxy)["out_queue"] == 5)
        assert one(proxy)["out_queue_bytes"] == 5 * len(request("GET", "k"))
        redis.cont()
        assert client.replies(5) == [b"v"] * 5
        assert one(proxy)["out_queue"] == one(proxy)["out_queue_bytes"] == 0


# Failures.


def test_ejection_is_shown_with_its_time_until_the_return(redis):
    options = {
        "auto_eject_hosts": "true",
        "server_failure_limit": 1,
        "server_retry_timeout": 50,
    }
    with (
        RedisServer() as other,
        proxy_of(redis, other, **options) as proxy,
        Client(proxy.port) as client,
    ):
        before = time.time_ns() // 1000
        assert one(proxy)["server_ejected_at"] == 0
        redis.kill()
        wait_until(lambda: client("SET", f"{time.time_ns()}", "v") != b"OK", "an error")
        wait_until(lambda: one(proxy)["server_ejected"] == 1)
        assert one(proxy)["server_down"] == 1
        assert before <= one(proxy)["server_ejected_at"] <= time.time_ns() // 1000
        assert alpha(proxy)["server_ejects"] == 1
        wait_until(lambda: one(proxy)["server_probes"] > 1)
        assert one(proxy)["server_err"] > 0
        other.kill()
        wait_until(lambda: client("GET", "k") and alpha(proxy)["no_live_server"] > 0)
        ejected_at = one(proxy)["server_ejected_at"]
        redis.restart()
        wait_until(lambda: one(proxy)["server_ejected"] == 0)
        assert one(proxy)["server_down"] == 0
        assert one(proxy)["server_ejected_at"] == ejected_at


def test_timeouts_are_counted_by_request_and_their_late_replies_dropped(redis):
    with proxy_of(redis, timeout=2000) as proxy, Client(proxy.port) as client:
        assert client("SET", "k", "v") == b"OK"
        redis.stop()
        client.pipeline(*[("GET", "k")] * 3)
        assert all(isinstance(reply, Exception) for reply in client.replies(3))
        shown = one(proxy)
        assert shown["requests_timedout"] == 3
        assert shown["server_timedout"] >= 1
        assert alpha(proxy)["forward_error"] == 3
        assert shown["responses"] == shown["latency"]["count"] == 1
        redis.cont()


def test_replies_for_which_no_client_waits_are_dropped(redis):
    with proxy_of(redis) as proxy:
        with Client(proxy.port) as client:
            assert client("SET", "k", "v") == b"OK"
            redis.stop()
            client.send("GET", "k")
            wait_until(lambda: one(proxy)["out_queue"] == 1)
            reset(client.socket)
        wait_until(lambda: alpha(proxy)["client_connections"] == 0)
        redis.cont()
        wait_until(lambda: one(proxy)["responses_dropped"] == 1)
        assert one(proxy)["responses"] == one(proxy)["latency"]["count"] == 1
        assert one(proxy)["out_queue"] == 0


def test_requests_whose_connection_ends_are_lost(redis):
    with proxy_of(redis) as proxy, Client(proxy.port) as client:
        assert client("SET", "k", "v") == b"OK"
        redis.stop()
        client.pipeline(*[("GET", "k")] * 4)
        wait_until(lambda: one(proxy)["out_queue"] == 4)
        redis.kill()
        client.replies(4)
        shown = one(proxy)
        assert shown["requests_lost"] == 4
        assert shown["server_eof"] + shown["server_err"] >= 1
        wait_until(lambda: client("GET", "k") and one(proxy)["requests_unavailable"] > 0)
        lost, unavailable = shown["requests_lost"], one(proxy)["requests_unavailable"]
        assert alpha(proxy)["forward_error"] == lost + unavailable


def test_request_in_parts_fails_once_whatever_parts_fail(redis):
    with RedisServer() as other, proxy_of(redis, other) as proxy, Client(proxy.port) as client:
        keys = [f"key:{number}" for number in range(20)]
        redis.kill()
        other.kill()
        client.error("MGET", *keys)
        assert alpha(proxy)["forward_error"] == 1
        assert alpha(proxy)["fragments"] == 2
        unavailable = [alpha(proxy)[name]["requests_unavailable"] for name in ("s1", "s2")]
        assert unavailable == [1, 1]


def test_servers_errors_are_responses(redis):
    with proxy_of(redis) as proxy, Client(proxy.port) as client:
        assert client("SET", "k", "v") == b"OK"
        client.error("LPUSH", "k", "v")
        assert one(proxy)["responses"] == 2
        assert one(proxy)["responses_error"] == 1
        assert alpha(proxy)["forward_error"] == alpha(proxy)["refused_requests"] == 0


@pytest.mark.parametrize("error", [b"-ERR no\r\n", b"!6\r\nERR no\r\n"])
def test_an_error_after_an_attribute_is_counted_as_an_error(error):
    reply = b"|1\r\n$3\r\nttl\r\n:1\r\n" + error

    def script(session):
        while session.open and (words := session.receive()):
            session.send(reply if words[0] == b"HGET" else reply_to(words))

    with (
        ScriptedServer(script) as server,
        proxy_of(server) as proxy,
        connect(proxy.port) as client,
    ):
        client.sendall(request("HGET", "k", "f"))
        received = b""
        while len(received) < len(reply):
            received += client.recv(100)
        assert received == reply
        assert one(proxy)["responses_error"] == 1


def test_refused_requests_are_not_forwarding_errors(redis):
    with proxy_of(redis, deny_commands="[keys]") as proxy, Client(proxy.port) as client:
        for command in (("NOSUCH",), ("KEYS", "*"), ("GET",), ("MONITOR",)):
            client.error(*command)
        assert alpha(proxy)["refused_requests"] == 4
        assert alpha(proxy)["client_requests"] == 4
        assert alpha(proxy)["forward_error"] == 0
        assert one(proxy)["requests"] == 0


def test_ends_of_clients_are_counted_by_kind(redis):
    with proxy_of(redis, client_connections=1) as proxy:
        with Client(proxy.port) as client:
            assert client("PING") == b"PONG"
            with Client(proxy.port) as surplus:
                assert b"max number of clients" in read_all(surplus.socket)
            assert client("QUIT") == b"OK"
        wait_until(lambda: alpha(proxy)["client_connections"] == 0)
        with Client(proxy.port) as client:
            client.send_bytes(b"*1\r\n$x\r\n")
            assert read_all(client.socket).startswith(b"-ERR Protocol error")
        wait_until(lambda: alpha(proxy)["client_connections"] == 0)
        shown = alpha(proxy)
        assert shown["client_eof"] == shown["client_err"] == shown["client_protocol_errors"] == 1
        assert (shown["client_accepted"], shown["client_rejected"]) == (2, 1)


@pytest.mark.parametrize("unread", [request("QUIT"), request("GET", "k") * 10 + request("QUIT")])
def test_a_client_that_quits_and_does_not_read_is_no_error(redis, unread):
    with proxy_of(redis) as proxy:
        for abort in (False, True):
            with Client(proxy.port) as client:
                assert client("PING") == b"PONG"
                # The client has closed or reset the connection before the proxy writes.
                proxy.stop()
                client.send_bytes(unread)
                if abort:
                    reset(client.socket)
            proxy.cont()
            wait_until(lambda: alpha(proxy)["client_connections"] == 0)
        shown = alpha(proxy)
        assert (shown["client_eof"], shown["client_err"]) == (2, 0)


def test_a_memcached_client_that_quits_and_does_not_read_is_no_error():
    with MemcachedServer() as cache, NutproxyServer(mc_pool("alpha", [cache])) as proxy:
        with connect(proxy.port) as client:
            client.sendall(b"mn\r\n")
            assert client.recv(100) == b"MN\r\n"
            proxy.stop()
            client.sendall(b"get k\r\n" * 10 + b"quit\r\n")
        proxy.cont()
        wait_until(lambda: alpha(proxy)["client_connections"] == 0)
        shown = alpha(proxy)
        assert (shown["client_eof"], shown["client_err"]) == (1, 0)


def test_servers_that_break_the_protocol_are_counted():
    def malformed(session):
        session.receive()
        session.send_bytes(b"what?\r\n")
        session.receive()

    with ScriptedServer(malformed) as server, proxy_of(server) as proxy:
        with Client(proxy.port) as client:
            client.error("GET", "k")
        assert one(proxy)["server_protocol_errors"] == 1
        assert one(proxy)["requests_lost"] == alpha(proxy)["forward_error"] == 1


# Other places.


def test_info_shows_the_same_figures(redis):
    with proxy_of(redis) as proxy, Client(proxy.port) as client:
        for number in range(10):
            client("SET", f"{number}", "v" * 1000)
        client.error("NOSUCH")
        text = client("INFO", "stats").decode()
        shown = alpha(proxy)
        found = {name: int(value) for name, value in re.findall(r"(\w+):(\d+)", text)}
        assert found["total_connections_received"] == shown["client_accepted"] == 1
        assert found["total_commands_processed"] == shown["client_requests"] == 12
        # Including INFO itself, whose reply is made from the server's reply.
        assert found["total_net_input_bytes"] == shown["client_request_bytes"] > 10_000
        assert found["total_net_output_bytes"] < shown["client_response_bytes"]
        assert found["forward_error"] == shown["forward_error"] == 0


def test_memcached_pools_are_counted_in_the_same_way():
    with MemcachedServer() as server:
        config = pool("alpha", [server], on_dead_server="miss").replace(
            "redis: true", "redis: false"
        )
        with NutproxyServer(config) as proxy, connect(proxy.port) as connection:
            sent = b"set k 0 0 1\r\nv\r\nget k\r\nnosuch\r\nset k 0 0 1 noreply\r\nw\r\nmn\r\n"
            connection.sendall(sent)
            received = b""
            while not received.endswith(b"MN\r\n"):
                received += connection.recv(1000)
            shown = alpha(proxy)
            assert shown["client_requests"] == 5
            assert shown["client_request_bytes"] == len(sent)
            assert shown["client_response_bytes"] == len(received)
            assert shown["refused_requests"] == 1
            [counts] = [value for value in shown.values() if isinstance(value, dict)]
            assert counts["requests"] == counts["responses"] == counts["latency"]["count"] == 3
            server.kill()
            connection.sendall(b"get k\r\n")
            assert connection.recv(1000) == b"END\r\n"
            assert alpha(proxy)["forward_error"] == 1


# Under load.


def test_figures_are_consistent_under_load(redis):
    """In every report, the queues account for all requests, and no counter runs backwards."""
    requests = 60_000
    with RedisServer() as other, proxy_of(redis, other) as proxy:
        load = ["redis-benchmark", "-h", HOST, "-p", str(proxy.port), "-n", str(requests), "-q"]
        load += ["-c", "50", "-P", "8", "-r", "1000", "set", "key:__rand_int__", "value"]
        before = {"s1": 0, "s2": 0}
        polls = 0
        with subprocess.Popen(load, stdout=subprocess.DEVNULL) as process:
            while process.poll() is None:
                shown = alpha(proxy)
                polls += 1
                for name in before:
                    server = shown[name]
                    due = server["in_queue"] + server["out_queue"]
                    assert server["requests"] == server["responses"] + due
                    assert server["latency"]["count"] == server["responses"]
                    assert sum(server["latency"]["buckets"].values()) == server["responses"]
                    assert (server["in_queue"] == 0) == (server["in_queue_bytes"] == 0)
                    assert server["responses"] >= before[name]
                    before[name] = server["responses"]
        assert process.returncode == 0
        assert polls > 1
        shown = alpha(proxy)
        done = sum(shown[name]["responses"] for name in before)
        assert requests <= done <= shown["client_requests"]
        assert shown["forward_error"] == 0
