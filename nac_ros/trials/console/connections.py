"""Limits on the connections of the web server, so that a stop request is always served.

A server that keeps every connection runs out of file descriptors when one client opens thousands
and sends nothing. Here a request must be complete within a time limit, and beyond a number of
connections a new one replaces the oldest idle one.
"""

import asyncio
import resource
from dataclasses import dataclass
from typing import Any

from nac_ros.core.config import check_fields, number_field

try:
    from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol as HTTPProtocol
except ImportError:  # uvicorn without its `standard` extra parses by h11
    from uvicorn.protocols.http.h11_impl import H11Protocol as HTTPProtocol  # type: ignore

WEBSOCKET_LINE, WEBSOCKET_HEADERS = 8000, 120  # limits of the websockets library
FILES = 4096  # file descriptors; enough for the limits below
TOO_MANY = b"HTTP/1.1 503 Service Unavailable\r\nconnection: close\r\ncontent-length: 0\r\n\r\n"
TOO_LONG = (
    b"HTTP/1.1 431 Request Header Fields Too Large\r\nconnection: close\r\n"
    b"content-length: 0\r\n\r\n"
)


@dataclass(frozen=True, kw_only=True)
class ConnectionLimits:
    """per_client, total: HTTP connections from one address and from all
    websockets_per_client, websockets: open pages; each page holds one websocket
    request_s: time limit [s] from the connection, or the first byte, to the complete request
    answer_s: time limit [s] from there until the client has the answer; a page polls for up to
        25 s
    header_bytes, request_bytes: largest size of a request's headers, and of the whole request
    """

    per_client: int = number_field(64, 8, 1000)
    total: int = number_field(256, 16, 2000)
    websockets_per_client: int = number_field(32, 2, 500)
    websockets: int = number_field(64, 2, 500)
    request_s: float = number_field(5.0, 0.1, 60.0, unit="s")
    answer_s: float = number_field(60.0, 30.0, 600.0, unit="s")
    header_bytes: int = number_field(1 << 16, 1 << 12, 1 << 20)
    request_bytes: int = number_field(1 << 20, 1 << 16, 1 << 26)

    def __post_init__(self) -> None:
        check_fields(self)


class ConnectionTable:
    """All connections of a server. Use it only on the thread of the server's event loop."""

    def __init__(self, limits: ConnectionLimits):
        self.limits = limits
        self._open: dict[Any, None] = {}  # HTTP connections, the oldest first
        self._websockets: list[tuple[str, asyncio.Transport]] = []

    def __len__(self) -> int:
        return len(self._open)

    def add(self, connection: Any) -> None:
        """Adds a connection; closes the one with the lowest `use` if there are too many."""
        self._open[connection] = None
        same = [one for one in self._open if one.address == connection.address]
        if len(same) > self.limits.per_client:
            self._close_one(same, connection)
        elif len(self._open) > self.limits.total:
            self._close_one(list(self._open), connection)

    def remove(self, connection: Any) -> None:
        self._open.pop(connection, None)

    def add_websocket(self, address: str, transport: asyncio.Transport) -> bool:
        """Adds a websocket if the limits allow it; returns whether they do. Closed ones do not
        count."""
        open_ = [(where, one) for where, one in self._websockets if not one.is_closing()]
        same = sum(where == address for where, _ in open_)
        allowed = same < self.limits.websockets_per_client and len(open_) < self.limits.websockets
        self._websockets = [*open_, (address, transport)] if allowed else open_
        return allowed

    def _close_one(self, candidates: list[Any], newest: Any) -> None:
        """Closes the connection with the lowest `use`, the oldest of these; never the newest."""
        others = [one for one in candidates if one is not newest]
        victim = min(others, key=lambda one: one.use)  # the first is the oldest
        self.remove(victim)
        victim.transport.abort()


class LimitedProtocol(HTTPProtocol):
    """uvicorn's HTTP protocol with the limits of `table`.

    use: 0 while no complete request was received, 1 between two requests, 2 during an answer
    """

    table: ConnectionTable

    address = ""
    _timer: asyncio.TimerHandle | None = None
    _received = 0  # bytes of the current request so far
    _is_websocket = False

    @property
    def use(self) -> int:
        if self.cycle is None:
            return 0
        if self.cycle.response_complete:
            return 0 if self._received else 1
        return 0 if self.cycle.more_body else 2

    def connection_made(self, transport: Any) -> None:
        super().connection_made(transport)
        self.address = self.client[0] if self.client else ""
        self._start_timer(self.table.limits.request_s)
        self.table.add(self)

    def connection_lost(self, exc: Exception | None) -> None:
        self.table.remove(self)
        self._stop_timer()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        if self.transport.is_closing():
            return
        idle = self.use == 1
        self._received += len(data)
        if idle:
            self._start_timer(self.table.limits.request_s)
        super().data_received(data)
        if self._is_websocket or self.transport.is_closing():
            return
        if self.use == 2:
            self._start_timer(self.table.limits.answer_s)
        elif self._received > self.table.limits.request_bytes:
            self.transport.abort()
        elif self._received > self.table.limits.header_bytes and not self._has_head():
            self.transport.write(TOO_LONG)
            self.transport.close()

    def on_response_complete(self) -> None:
        self._received = 0
        self._stop_timer()  # then uvicorn starts its own timer for idle connections
        super().on_response_complete()
        if self.use == 2:  # pipelined: the next request is already complete
            self._start_timer(self.table.limits.answer_s)

    def handle_websocket_upgrade(self, *event: Any) -> None:
        self.table.remove(self)
        self._stop_timer()
        self._is_websocket = True
        longest = max((len(name) + len(value) for name, value in self.headers), default=0)
        if longest > WEBSOCKET_LINE or len(self.headers) > WEBSOCKET_HEADERS:
            self._reject(TOO_LONG)
        elif not self.table.add_websocket(self.address, self.transport):
            self._reject(TOO_MANY)
        else:
            super().handle_websocket_upgrade(*event)
            self.loop.call_later(self.table.limits.request_s, _close_unless_open, self.transport)

    def _reject(self, answer: bytes) -> None:
        self.connections.discard(self)
        self.transport.write(answer)
        self.transport.close()

    def _has_head(self) -> bool:
        """Whether all headers of the current request were received, and its body was not."""
        return self.cycle is not None and not self.cycle.response_complete

    def _start_timer(self, seconds: float) -> None:
        self._stop_timer()
        self._timer = self.loop.call_later(seconds, self._expire)

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _expire(self) -> None:
        self._timer = None
        self.transport.abort()


def _close_unless_open(transport: Any) -> None:
    """Ends a websocket whose opening handshake failed without an answer."""
    if not getattr(transport.get_protocol(), "handshake_complete", True):
        transport.abort()


def limited_protocol(table: ConnectionTable) -> type:
    """The protocol class of a server whose connections are in `table`."""
    return type("LimitedProtocolOfTable", (LimitedProtocol,), {"table": table})


def allow_files() -> None:
    """Raises the soft limit of open files towards the hard one; DDS needs many as well."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = FILES if hard == resource.RLIM_INFINITY else min(FILES, hard)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
