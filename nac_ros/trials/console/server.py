"""The web server of the console, in a thread of the process that has the sitting."""

import secrets
import socket
from asyncio import get_running_loop
from concurrent.futures import ThreadPoolExecutor
from threading import Thread

import numpy as np
import uvicorn
from fastapi import FastAPI, Response
from nicegui import ui

from nac_ros.core import image_codec
from nac_ros.core.errors import ConfigError
from nac_ros.trials.console import page
from nac_ros.trials.console.auth import AccessControl, is_loopback
from nac_ros.trials.console.connections import (
    ConnectionLimits,
    ConnectionTable,
    allow_files,
    limited_protocol,
)
from nac_ros.trials.console.controller import ConsoleController
from nac_ros.trials.scene_reference import edges

QUALITY = 85  # of the pictures [JPEG]
END_S = 3.0
BACKLOG = 128  # connections accepted at once, before one too many is closed
STOPPERS = 4  # threads for the stop alone: pictures in progress do not delay it
TOKEN_BYTES = 24
NOTHING = Response(status_code=404)
LIMITS = ConnectionLimits()
FRESH = {"cache-control": "no-store"}


class Console:
    """Offers the page from when it is made.

    address: to be opened, with the token where one is needed; where: the same without it
    """

    def __init__(
        self, desk: ConsoleController, host: str, port: int, limits: ConnectionLimits = LIMITS
    ):
        """Raises ConfigError where host and port cannot be had."""
        allow_files()
        token = "" if is_loopback(host) else secrets.token_urlsafe(TOKEN_BYTES)
        listening = _listen(host, port)
        self.where = f"http://{_shown(host)}:{listening.getsockname()[1]}/"
        self.address = self.where + (f"?token={token}" if token else "")
        application = FastAPI(openapi_url=None)
        offer(application, desk)
        page.offer(desk)
        ui.run_with(
            application, title="Trials", language="en-US", show_welcome_message=False,
            reconnect_timeout=10.0,
        )  # fmt: skip
        config = uvicorn.Config(
            AccessControl(application, token), log_level="error", access_log=False, lifespan="on",
            timeout_graceful_shutdown=1, loop="asyncio", backlog=BACKLOG,
            http=limited_protocol(ConnectionTable(limits)), ws_max_size=limits.request_bytes,
        )  # fmt: skip
        self._server = uvicorn.Server(config)
        self._thread = Thread(
            target=self._server.run, kwargs={"sockets": [listening]}, name="console", daemon=True
        )
        self._thread.start()

    def close(self) -> None:
        """Pages lose their connection, and say so."""
        self._server.should_exit = True
        self._thread.join(END_S)


def offer(application: FastAPI, desk: ConsoleController) -> None:
    """What is not of the page itself: pictures, and a stop that needs nothing but a request."""

    @application.get("/camera/{name}.jpg")
    def camera(name: str) -> Response:
        image = desk.picture(name)
        return NOTHING if image is None else _jpeg(image)

    @application.get("/reference/{kind}")
    def reference(kind: str) -> Response:
        image = desk.reference()
        if image is None:
            return NOTHING
        if kind == "edges":
            return Response(edges(image), media_type="image/png", headers=FRESH)
        return _jpeg(image)

    @application.post("/here")
    def here() -> Response:
        desk.watch()
        return Response(status_code=204)

    stoppers = ThreadPoolExecutor(STOPPERS, "stop")

    @application.post("/abort")
    async def abort() -> Response:
        await get_running_loop().run_in_executor(stoppers, desk.abort)
        return Response(status_code=204)


def _jpeg(image: np.ndarray) -> Response:
    data = image_codec.encode_jpeg(image, QUALITY)
    return Response(data, media_type="image/jpeg", headers=FRESH)


def _listen(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.create_server((host, port), family=family)
    except OSError as error:
        raise ConfigError(
            f"the console cannot listen on {host}, port {port}: {error.strerror or error}; choose "
            "another `port`, or `host`"
        ) from error


def _shown(host: str) -> str:
    """A name that other machines can use."""
    if host in ("0.0.0.0", "::"):
        return socket.gethostname()
    return f"[{host}]" if ":" in host else host
