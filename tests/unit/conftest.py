# tests/unit/conftest.py: a real Redis for comparison
"""`reference` is a redis-server on a unix socket. Tests compare nutproxy's replies with its."""

import socket
import subprocess

import hiredis
import pytest


class Connection:
    """A connection to the reference server that can also return raw replies."""

    def __init__(self, path):
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(10)
        self.sock.connect(path)
        self.reader = hiredis.Reader()

    def raw(self, *argv):
        """The bytes of the reply."""
        return self._ask(argv)[0]

    def __call__(self, *argv):
        """The reply as hiredis decodes it; an error is a ReplyError."""
        return self._ask(argv)[1]

    def send(self, *argv):
        self.sock.sendall(hiredis.pack_command(argv))

    def _ask(self, argv):
        self.send(*argv)
        received = b""
        while (reply := self.reader.gets()) is False:
            data = self.sock.recv(65536)
            assert data, "the reference server closed the connection"
            received += data
            self.reader.feed(data)
        return received, reply


class Reference:
    def __init__(self, path):
        self.path = path
        self.connections = []

    def connect(self):
        self.connections.append(Connection(self.path))
        return self.connections[-1]


@pytest.fixture(scope="session")
def reference_path(tmp_path_factory):
    directory = tmp_path_factory.mktemp("redis")
    path = str(directory / "redis.sock")
    command = ["redis-server", "--port", "0", "--unixsocket", path, "--save", ""]
    with subprocess.Popen([*command, "--dir", str(directory)], stdout=subprocess.PIPE) as process:
        ready = any(b"ready to accept connections" in line for line in process.stdout)
        assert ready, "redis-server did not start"
        yield path
        process.terminate()


@pytest.fixture
def reference(reference_path):
    server = Reference(reference_path)
    yield server
    for connection in server.connections:
        connection.sock.close()
