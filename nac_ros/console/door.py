"""Who may talk to the console: this machine, or whoever has the token; no other web page."""

import hmac
from collections.abc import Awaitable, Callable, MutableMapping
from http.cookies import CookieError, SimpleCookie
from ipaddress import ip_address
from typing import Any
from urllib.parse import parse_qs, urlsplit

COOKIE = "nac_token"
REFUSED = b"403: open the address that the node printed, with its token\n"

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]


class Door:
    """An ASGI application that lets through to `app` what may be let through.

    token: '' on loopback, where only requests to a name of this machine count, so that no web
    page elsewhere can have its visitors ask (DNS rebinding)
    """

    def __init__(self, app: Any, token: str):
        self.app, self._token = app, token

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """As ASGI says."""
        if scope["type"] not in ("http", "websocket"):
            await self.app(scope, receive, send)
            return
        headers = {key.lower(): value for key, value in scope["headers"]}
        given = _given(scope, headers)
        if not (self._knows(given, headers) and _same_origin(headers)):
            await _refuse(scope, receive, send)
            return
        in_address = self._token and "token" in parse_qs(scope["query_string"].decode("latin-1"))
        if scope["type"] == "http" and in_address and scope["path"] == "/":
            await _remember(self._token, send)
            return
        await self.app(scope, receive, send)

    def _knows(self, given: str, headers: dict[bytes, bytes]) -> bool:
        if self._token:
            return hmac.compare_digest(given.encode(), self._token.encode())
        host = urlsplit(f"//{headers.get(b'host', b'').decode('latin-1')}").hostname or ""
        return is_loopback(host)


def is_loopback(host: str) -> bool:
    """Whether a name or address means this machine to itself alone."""
    try:
        return host == "localhost" or ip_address(host).is_loopback
    except ValueError:
        return False


def _given(scope: Scope, headers: dict[bytes, bytes]) -> str:
    """The token of the address or else of the cookie."""
    query = parse_qs(scope["query_string"].decode("latin-1"))
    if "token" in query:
        return query["token"][0]
    try:
        cookie = SimpleCookie(headers.get(b"cookie", b"").decode("latin-1"))
    except CookieError:
        return ""
    return cookie[COOKIE].value if COOKIE in cookie else ""


def _same_origin(headers: dict[bytes, bytes]) -> bool:
    """Whether a request comes from a page of ours, where the browser says from which."""
    origin = headers.get(b"origin")
    if origin is None:
        return True
    return urlsplit(origin.decode("latin-1")).netloc == headers.get(b"host", b"").decode("latin-1")


async def _remember(token: str, send: Send) -> None:
    """Takes the token out of the address, where others could read it, into a cookie."""
    cookie = f"{COOKIE}={token}; HttpOnly; SameSite=Strict; Path=/".encode()
    headers = [(b"location", b"/"), (b"set-cookie", cookie), (b"cache-control", b"no-store")]
    await send({"type": "http.response.start", "status": 303, "headers": headers})
    await send({"type": "http.response.body", "body": b""})


async def _refuse(scope: Scope, receive: Receive, send: Send) -> None:
    if scope["type"] == "websocket":
        await receive()
        await send({"type": "websocket.close", "code": 1008})  # before it is accepted: a 403
        return
    headers = [(b"content-type", b"text/plain")]
    await send({"type": "http.response.start", "status": 403, "headers": headers})
    await send({"type": "http.response.body", "body": REFUSED})
