"""The console serves the stop whatever other connections do; bad requests get a 4xx."""

import random
import resource
import socket
import subprocess
import sys
import time
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from urllib.parse import urlsplit

import pytest

pytest.importorskip("nicegui")

from nac_ros.trials.console.auth import parse_host, parse_origin
from nac_ros.trials.console.connections import ConnectionLimits, ConnectionTable

SERVER = Path(__file__).resolve().parent / "console_server.py"
HALF_OPEN = 1500
REQUEST_S = 1.0  # of the server's limits
CASES, BATCH = 600, 40
PATIENCE_S = 10.0  # on a busy machine
PARTS = (
    b"POST /abort HTTP/1.1\r\n",
    b"Host: 127.0.0.1\r\n",
    b"Host: [\r\n",
    b"Origin: http://[\r\n",
    b"Origin: null\r\n",
    b'Cookie: a="\r\n',
    b"Cookie: \xff=;;=\r\n",
    b"Content-Length: -1\r\n",
    b"Content-Length: 5\r\n",
    b"Transfer-Encoding: chunked\r\n",
    b"Expect: 100-continue\r\n",
    b"Upgrade: websocket\r\nConnection: Upgrade\r\n",
    b"Sec-WebSocket-Version: 13\r\n",
    b"Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n",
    b"Sec-WebSocket-Key: x\r\n",
    b"Range: bytes=9-1,a\r\n",
    b"If-Modified-Since: x\r\n",
    b"Accept-Encoding: \xff\r\n",
    b"Connection: close\r\n",
    b": \r\n",
    b"\r\n",
    b"\x00",
    b"\xff",
    b"x: " + b"y" * 3000 + b"\r\n",
)
TARGETS = (
    b"/",
    b"/abort",
    b"/heartbeat",
    b"/camera/%00.jpg",
    b"/camera/scene.jpg",
    b"/reference/x",
    b"*",
    b"//",
    b"/%ff",
    b"/../../etc/passwd",
    b"/_nicegui/",
    b"/?token=%ff",
    b"/_nicegui_ws/socket.io/?EIO=x",
    b"/_nicegui_ws/socket.io/?EIO=4&transport=polling&sid=%00",
    b"http://[",
    b"/a b",
    b"\xff",
    b"",
    b"/_nicegui_ws/socket.io/?EIO=4&transport=websocket",
    b"/_nicegui/3/static/%00",
)
METHODS = (b"GET", b"POST", b"PUT", b"HEAD", b"OPTIONS", b"CONNECT", b"TRACE", b"G\xffT", b"")


@pytest.fixture(scope="module")
def server():
    """A console in a process that may open 1024 files; `address` is its host and port."""
    process = subprocess.Popen(
        [sys.executable, str(SERVER), str(REQUEST_S)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    found = urlsplit(process.stdout.readline().strip())
    process.address = (found.hostname, found.port)
    yield process
    process.stdin.close()
    process.wait(20)
    process.stdout.close()


@contextmanager
def many_files():
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = HALF_OPEN + 500
    if hard != resource.RLIM_INFINITY and hard < wanted:
        pytest.skip(f"this process may open {hard} files at most, wanted {wanted}")
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, wanted), hard))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def ask(address, *requests):
    """Status of the answers to raw requests, each on its own connection; 0 if it is closed without
    an answer."""
    with ExitStack() as opened:
        connections = [connect(address, opened) for _ in requests]
        for connection, request in zip(connections, requests):
            send(connection, request)
        return [status(connection) for connection in connections]


def connect(address, opened):
    return opened.enter_context(socket.create_connection(address, timeout=PATIENCE_S))


def send(connection, data):
    """Sends to a server that may have closed the connection."""
    with suppress(ConnectionError):
        connection.sendall(data)


def status(connection):
    with suppress(ConnectionError):
        answer = connection.recv(4096)
        return int(answer.split()[1]) if answer.startswith(b"HTTP/1.1 ") else 0
    return 0


def stop(server):
    """Sends a stop and checks that it reached the robot."""
    (found,) = ask(server.address, b"POST /abort HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n")
    assert found == 204
    assert server.stdout.readline() == "stopped\n"


@pytest.mark.parametrize("sent", [b"", b"POST /abort HTTP/1.1\r\nHost: 127"])
def test_a_stop_is_served_despite_1500_half_open_connections(server, sent):
    with many_files(), ExitStack() as opened:
        for _ in range(HALF_OPEN):
            send(connect(server.address, opened), sent)
        begun = time.monotonic()
        for _ in range(3):
            stop(server)
        assert time.monotonic() - begun < PATIENCE_S
    stop(server)


def test_a_request_that_is_not_completed_is_closed_in_time(server):
    """A byte from time to time does not keep it open."""
    begun = time.monotonic()
    with socket.create_connection(server.address, timeout=PATIENCE_S) as connection:
        send(connection, b"GET / HTTP/1.1\r\nHost:")
        connection.settimeout(0.2)
        while time.monotonic() - begun < PATIENCE_S:
            send(connection, b" ")
            with suppress(TimeoutError):
                assert status(connection) == 0
                return
    pytest.fail(f"an incomplete request is open after {PATIENCE_S} s")


def test_a_page_and_its_websocket_are_served_despite_half_open_connections(server):
    upgrade = (
        b"GET /_nicegui_ws/socket.io/?EIO=4&transport=websocket HTTP/1.1\r\nHost: 127.0.0.1\r\n"
        b"Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n"
        b"Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n"
    )
    with many_files(), ExitStack() as opened:
        page = connect(server.address, opened)
        send(page, upgrade)
        assert status(page) == 101
        for _ in range(HALF_OPEN // 5):
            connect(server.address, opened)
        assert ask(server.address, b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n") == [200]
        send(page, b"\x89\x80\0\0\0\0")  # a ping
        assert page.recv(4096), "the open page was closed"


def test_an_endless_header_is_rejected(server):
    request = b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\n" + b"x: y\r\n" * 40_000
    assert ask(server.address, request)[0] in (0, 431)
    stop(server)


@pytest.mark.parametrize(
    "header",
    [
        b"Host: [",
        b"Host: ]",
        b"Host: [::1",
        b"Host: [zz]",
        b"Host: [1.2.3.4]",
        b"Host: a:b",
        b"Host: 127.0.0.1:99999",
        b"Host: 127.0.0.1:-1",
        b"Host: 127.0.0.1:",
        b"Host: a b",
        b"Host: a@127.0.0.1",
        b"Host: 127.0.0.1/",
        b"Host: 127.0.0.1#",
        b"Host: \xc3\xa9",
        b"Host:",
        b"Host: [::1%25eth0]",
        b"Host: 127.0.0.1\r\nHost: 127.0.0.1",
        b"Host: " + b"a" * 300,
        b"Host: " + b"a" * 100_000,
        b"Host: 127.0.0.1\x00",
        b"Host: [::1]:65536",
        b"Host: 127.0.0.1\r\nOrigin: http://[",
        b"Host: 127.0.0.1\r\nOrigin: http://",
        b"Host: 127.0.0.1\r\nOrigin: http://a:99999",
        b"Host: 127.0.0.1\r\nOrigin: \xff",
        b"Host: 127.0.0.1\r\nOrigin: http://127.0.0.1\r\nOrigin: http://evil",
        b"Host: 127.0.0.1\r\nOrigin: null",
        b"Host: 127.0.0.1\r\nOrigin: ftp://127.0.0.1",
        b"Host: 127.0.0.1\r\nOrigin: http://127.0.0.1:81",
        b"Host: 127.0.0.1\r\nOrigin:",
        b"Host: 127.0.0.1\r\nOrigin: http://user@127.0.0.1",
        b"Host: evil.example",
        b"Host: 127.0.0.1.evil.example",
        b"Host: 0x7f000001",
        b"X: y",
    ],
    ids=lambda header: repr(header[:45]),
)
@pytest.mark.parametrize("more", [b"", b"Upgrade: websocket\r\nConnection: Upgrade\r\n"])
def test_a_malformed_or_foreign_host_or_origin_gets_a_4xx(server, header, more):
    request = b"GET / HTTP/1.1\r\n" + header + b"\r\n" + more + b"\r\n"
    assert 400 <= ask(server.address, request)[0] < 500


@pytest.mark.parametrize("host", ["127.0.0.1", "127.0.0.1:8080", "[::1]:1", "LOCALHOST", "[::1]"])
def test_requests_to_names_of_this_machine_are_answered(server, host):
    same = f"Host: {host}\r\nOrigin: http://{host.lower()}\r\n"
    assert ask(server.address, f"POST /heartbeat HTTP/1.1\r\n{same}\r\n".encode()) == [204]


def test_hosts_and_origins_are_parsed_as_browsers_write_them():
    assert parse_host(b"Robot:8080") == ("robot", 8080) and parse_host(b"a") == ("a", 80)
    assert parse_host(b"[::1]:65535") == ("::1", 65535) and parse_host(b"[::1]:65536") is None
    assert parse_origin(b"https://robot") == ("https", "robot", 443)
    assert parse_origin(b"null") == ("null", "", 0) and parse_origin(b"robot") is None


def test_no_random_request_gets_a_5xx(server):
    rng = random.Random(18)
    answered = 0
    for _ in range(CASES // BATCH):
        requests = [random_request(rng) for _ in range(BATCH)]
        found = ask(server.address, *requests)
        assert max(found) < 500, requests[found.index(max(found))]
        answered += sum(one > 0 for one in found)
    assert answered > CASES // 2


def random_request(rng):
    line = b" ".join((rng.choice(METHODS), rng.choice(TARGETS), b"HTTP/1.1\r\n"))
    parts = [rng.choice(PARTS) for _ in range(rng.randrange(6))]
    whole = bytearray(line + b"Host: 127.0.0.1\r\n" * (rng.random() < 0.8) + b"".join(parts))
    if rng.random() < 0.3:
        whole[rng.randrange(len(whole))] = rng.randrange(256)
    return bytes(whole) + b"\r\n\r\n"


class Connection:
    """A connection as the table sees it."""

    def __init__(self, address, use):
        self.address, self.use, self.closed, self.transport = address, use, False, self

    def abort(self):
        self.closed = True

    def is_closing(self):
        return self.closed


def test_the_oldest_connection_of_least_use_is_closed_for_a_new_one():
    table = ConnectionTable(ConnectionLimits(per_client=8, total=16))
    uses = [2, 1, 0, 0, 2, 1, 2, 2]
    first = [Connection("a", use) for use in uses]
    for one in first:
        table.add(one)
    closed = []
    for _ in range(6):
        table.add(Connection("a", 2))
        closed += [
            first.index(one) for one in first if one.closed and first.index(one) not in closed
        ]
    assert closed == [2, 3, 1, 5, 0, 4] and len(table) == 8
    for number in range(10):
        table.add(Connection(f"b{number}", 0))
    assert len(table) == 16


def test_open_pages_are_limited_for_each_client_and_in_total():
    table = ConnectionTable(ConnectionLimits(websockets_per_client=2, websockets=3))
    pages = [Connection(name, 0) for name in "aaabb"]
    allowed = [table.add_websocket(page.address, page) for page in pages]
    assert allowed == [True, True, False, True, False]
    pages[0].abort()
    assert table.add_websocket("a", pages[2])
