"""Access control of the console: only this machine or holders of the token, no other site."""

import hmac
import re
from collections.abc import Awaitable, Callable, MutableMapping
from http.cookies import CookieError, SimpleCookie
from ipaddress import ip_address
from typing import Any
from urllib.parse import parse_qs

COOKIE = "nac_token"
FORBIDDEN = "403: open the address that the node printed, with its token\n"
PORTS, MAX_PORT = {"http": 80, "https": 443}, 65535  # https: of a proxy before the console
HOST = re.compile(
    rb"(?P<name>\[[0-9A-Fa-f:.]{2,45}\]|[A-Za-z0-9._-]{1,253})(:(?P<port>[0-9]{1,5}))?"
)
ORIGIN = re.compile(rb"(?P<scheme>[A-Za-z][A-Za-z0-9+.-]{0,30})://(?P<host>.{1,320})")

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]


class AccessControl:
    """ASGI middleware that passes permitted requests to `app` and rejects all others.

    token: '' for a server on the loopback interface. It accepts only a Host header that names
        this machine, because a foreign page could reach it by DNS rebinding.
    """

    def __init__(self, app: Any, token: str):
        self.app, self._token = app, token

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handles one connection, as specified by ASGI."""
        if scope["type"] not in ("http", "websocket"):
            await self.app(scope, receive, send)
            return
        if problem := malformed(scope):
            await _reject(scope, receive, send, 400, problem)
            return
        headers = {key.lower(): value for key, value in scope["headers"]}
        if not (self._is_authorized(_token_of(scope, headers), headers) and _same_origin(headers)):
            await _reject(scope, receive, send, 403, FORBIDDEN)
            return
        in_address = self._token and "token" in _query(scope)
        if scope["type"] == "http" and in_address and scope["path"] == "/":
            await _redirect_with_cookie(self._token, send)
            return
        await self.app(scope, receive, send)

    def _is_authorized(self, token: str, headers: dict[bytes, bytes]) -> bool:
        if self._token:
            return hmac.compare_digest(token.encode(), self._token.encode())
        host = parse_host(headers.get(b"host", b""))
        return host is not None and is_loopback(host[0])


def malformed(scope: Scope) -> str:
    """Error text for a request that no browser sends; '' for a well-formed one."""
    if not scope["path"].isprintable():
        return "400: the path has control characters\n"
    for name in (b"host", b"origin"):
        values = [value for key, value in scope["headers"] if key.lower() == name]
        if len(values) > 1:
            return f"400: {name.decode()} is given twice\n"
        parse = parse_host if name == b"host" else parse_origin
        if values and parse(values[0]) is None:
            return f"400: {name.decode()} is malformed\n"
    return ""


def parse_host(text: bytes, default_port: int = 80) -> tuple[str, int] | None:
    """Name or address, and port, of a Host header; None if it is malformed."""
    found = HOST.fullmatch(text)
    if found is None:
        return None
    name, port = found["name"].decode().lower(), int(found["port"] or default_port)
    if port > MAX_PORT:
        return None
    if name.startswith("["):
        name = name[1:-1]
        try:
            ip_address(name)
        except ValueError:
            return None
    return name, port


def parse_origin(text: bytes) -> tuple[str, str, int] | None:
    """Scheme, name and port of an Origin header; ('null', '', 0) for an opaque origin; None if it
    is malformed."""
    if text == b"null":
        return "null", "", 0
    found = ORIGIN.fullmatch(text)
    if found is None:
        return None
    scheme = found["scheme"].decode().lower()
    host = parse_host(found["host"], PORTS.get(scheme, 80))
    return None if host is None else (scheme, *host)


def is_loopback(host: str) -> bool:
    """Whether a name or address is reachable from this machine only."""
    try:
        return host == "localhost" or ip_address(host).is_loopback
    except ValueError:
        return False


def _query(scope: Scope) -> dict[str, list[str]]:
    return parse_qs(scope["query_string"].decode("latin-1"))


def _token_of(scope: Scope, headers: dict[bytes, bytes]) -> str:
    """The token in the address, otherwise in the cookie."""
    query = _query(scope)
    if "token" in query:
        return query["token"][0]
    try:
        cookie = SimpleCookie(headers.get(b"cookie", b"").decode("latin-1"))
    except CookieError:
        return ""
    return cookie[COOKIE].value if COOKIE in cookie else ""


def _same_origin(headers: dict[bytes, bytes]) -> bool:
    """Whether a request comes from a page of this server; without an Origin header it does."""
    if (origin := headers.get(b"origin")) is None:
        return True
    page = parse_origin(origin)
    if page is None or page[0] not in PORTS:
        return False
    return parse_host(headers.get(b"host", b""), PORTS[page[0]]) == page[1:]


async def _redirect_with_cookie(token: str, send: Send) -> None:
    """Moves the token from the address, where others could read it, into a cookie."""
    cookie = f"{COOKIE}={token}; HttpOnly; SameSite=Strict; Path=/".encode()
    headers = [(b"location", b"/"), (b"set-cookie", cookie), (b"cache-control", b"no-store")]
    await send({"type": "http.response.start", "status": 303, "headers": headers})
    await send({"type": "http.response.body", "body": b""})


async def _reject(scope: Scope, receive: Receive, send: Send, status: int, text: str) -> None:
    if scope["type"] == "websocket":
        await receive()
        await send({"type": "websocket.close", "code": 1008})  # before it is accepted: a 403
        return
    headers = [(b"content-type", b"text/plain"), (b"connection", b"close")]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": text.encode()})
