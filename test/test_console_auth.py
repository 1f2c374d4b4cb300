"""Only this machine or holders of the token reach the console; no foreign page does."""

import asyncio

import pytest

from nac_ros.trials.console.auth import COOKIE, AccessControl, is_loopback

TOKEN = "a-token"


def ask(token, path="/", query="", kind="http", **headers):
    """Status and headers of the answer, or of a rejected websocket; 200 is the application."""
    sent = []

    async def application(scope, receive, send):
        sent.append({"status": 200})

    async def send(message):
        sent.append(message)

    async def receive():
        return {"type": "websocket.connect"}

    given = {"host": "127.0.0.1:8080", **headers}
    scope = {"type": kind, "path": path, "query_string": query.encode()}
    scope["headers"] = [(k.encode(), v.encode()) for k, v in given.items()]
    asyncio.run(AccessControl(application, token)(scope, receive, send))
    first = sent[0]
    if first.get("type") == "websocket.close":
        return 403, {}
    return first["status"], {k.decode(): v.decode() for k, v in first.get("headers", [])}


def test_on_this_machine_no_token_is_needed():
    assert ask("")[0] == 200
    assert ask("", host="localhost:8080")[0] == 200
    assert ask("", kind="websocket", path="/_nicegui_ws/socket.io/")[0] == 200


def test_a_foreign_host_name_is_rejected():
    assert ask("", host="evil.example:8080")[0] == 403
    assert ask("", host="192.168.1.5:8080")[0] == 403


@pytest.mark.parametrize("kind", ["http", "websocket"])
def test_a_page_of_another_site_is_rejected(kind):
    assert ask("", kind=kind, origin="http://evil.example")[0] == 403
    assert ask("", kind=kind, origin="http://127.0.0.1:9999")[0] == 403
    assert ask("", kind=kind, origin="http://127.0.0.1:8080")[0] == 200


@pytest.mark.parametrize("kind", ["http", "websocket"])
@pytest.mark.parametrize("path", ["/", "/abort", "/camera/scene.jpg", "/_nicegui_ws/socket.io/"])
def test_requests_from_other_machines_need_the_token(kind, path):
    lab = {"host": "robot:8080"}
    assert ask(TOKEN, path, kind=kind, **lab)[0] == 403
    assert ask(TOKEN, path, "token=another", kind, **lab)[0] == 403
    assert ask(TOKEN, path, "token=", kind, **lab)[0] == 403
    assert ask(TOKEN, path, kind=kind, cookie=f"{COOKIE}=another", **lab)[0] == 403
    assert ask(TOKEN, path, kind=kind, cookie=f"{COOKIE}={TOKEN}", **lab)[0] == 200


def test_the_token_moves_from_the_address_into_a_cookie_that_scripts_cannot_read():
    status, headers = ask(TOKEN, query=f"token={TOKEN}", host="robot:8080")
    assert (status, headers["location"]) == (303, "/")
    assert headers["set-cookie"].startswith(f"{COOKIE}={TOKEN}; HttpOnly; SameSite=Strict")


def test_loopback_names_and_addresses():
    assert all(map(is_loopback, ("127.0.0.1", "127.0.0.2", "::1", "localhost")))
    assert not any(map(is_loopback, ("0.0.0.0", "::", "192.168.1.5", "robot", "")))


@pytest.mark.parametrize("token", ["", TOKEN])
@pytest.mark.parametrize("headers", [{"host": "["}, {"origin": "http://["}, {"host": "a:99999"}])
def test_malformed_requests_get_a_400_with_and_without_a_token(token, headers):
    assert ask(token, query=f"token={TOKEN}", **headers)[0] == 400
    assert ask(token, query=f"token={TOKEN}", kind="websocket", **headers)[0] == 403
    assert ask(token, path="/\x00", query=f"token={TOKEN}")[0] == 400


def test_a_proxy_with_tls_is_accepted():
    assert ask("", host="localhost", origin="https://localhost")[0] == 200
    assert ask("", host="localhost", origin="https://localhost:8443")[0] == 403
    assert ask("", host="localhost:8080", origin="null")[0] == 403
