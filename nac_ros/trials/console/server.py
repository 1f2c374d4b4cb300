"""Web server of the console, in a thread of the process with the operator session."""

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
from nac_ros.trials.scene_reference import outlines_png

JPEG_QUALITY = 85
JOIN_S = 3.0
BACKLOG = 128  # connections that the kernel accepts before the server does
STOP_THREADS = 4  # serve the stop alone, so that images in progress do not delay it
TOKEN_BYTES = 24
NOT_FOUND = Response(status_code=404)
NO_STORE = {"cache-control": "no-store"}
DEFAULT_LIMITS = ConnectionLimits()


class ConsoleServer:
    """Serves the page from construction on.

    address: URL of the page, with the token if one is needed; public_address: without the token
    """

    def __init__(
        self,
        controller: ConsoleController,
        host: str,
        port: int,
        limits: ConnectionLimits = DEFAULT_LIMITS,
    ):
        """Raises ConfigError if the address is taken or unknown."""
        allow_files()
        token = "" if is_loopback(host) else secrets.token_urlsafe(TOKEN_BYTES)
        listening = _listen(host, port)
        self.public_address = f"http://{_url_host(host)}:{listening.getsockname()[1]}/"
        self.address = self.public_address + (f"?token={token}" if token else "")
        application = FastAPI(openapi_url=None)
        add_routes(application, controller)
        page.add_page(controller)
        ui.run_with(
            application,
            title="Trials",
            language="en-US",
            show_welcome_message=False,
            reconnect_timeout=10.0,
        )
        config = uvicorn.Config(
            AccessControl(application, token),
            log_level="error",
            access_log=False,
            lifespan="on",
            timeout_graceful_shutdown=1,
            loop="asyncio",
            backlog=BACKLOG,
            http=limited_protocol(ConnectionTable(limits)),
            ws_max_size=limits.request_bytes,
        )
        self._server = uvicorn.Server(config)
        self._thread = Thread(
            target=self._server.run, kwargs={"sockets": [listening]}, name="console", daemon=True
        )
        self._thread.start()

    def close(self) -> None:
        """Ends the server; open pages show that the connection is lost."""
        self._server.should_exit = True
        self._thread.join(JOIN_S)


def add_routes(application: FastAPI, controller: ConsoleController) -> None:
    """Adds the images, the heartbeat, and a stop that needs one request and no websocket."""

    @application.get("/camera/{name}.jpg")
    def camera(name: str) -> Response:
        image = controller.latest_image(name)
        return NOT_FOUND if image is None else _jpeg(image)

    @application.get("/reference/{kind}")
    def reference(kind: str) -> Response:
        image = controller.reference()
        if image is None:
            return NOT_FOUND
        if kind == "outlines":
            return Response(outlines_png(image), media_type="image/png", headers=NO_STORE)
        return _jpeg(image)

    @application.post("/heartbeat")
    def heartbeat() -> Response:
        controller.heartbeat()
        return Response(status_code=204)

    stop_pool = ThreadPoolExecutor(STOP_THREADS, "stop")

    @application.post("/abort")
    async def abort() -> Response:
        await get_running_loop().run_in_executor(stop_pool, controller.abort)
        return Response(status_code=204)


def _jpeg(image: np.ndarray) -> Response:
    data = image_codec.encode_jpeg(image, JPEG_QUALITY)
    return Response(data, media_type="image/jpeg", headers=NO_STORE)


def _listen(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.create_server((host, port), family=family)
    except OSError as error:
        raise ConfigError(
            f"the console cannot listen on {host}, port {port}: {error.strerror or error}; choose "
            "another `port`, or `host`"
        ) from error


def _url_host(host: str) -> str:
    """Host in a URL that other machines can use."""
    if host in ("0.0.0.0", "::"):
        return socket.gethostname()
    return f"[{host}]" if ":" in host else host
