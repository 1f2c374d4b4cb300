"""The one place that imports rerun: what the graph publishes becomes entities on one time line."""

import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO, Literal, get_args

import cv2
import numpy as np

from nac_ros.control.types import GuardState
from nac_ros.core.errors import ConfigError, NacError, UnknownName
from nac_ros.core.types import ActionChunk
from nac_ros.datasets.factory import AnyDataset
from nac_ros.robot.spec import RobotSpec, list_robots, load_robot

try:
    import rerun as rr
    import rerun.blueprint as rrb
except ModuleNotFoundError as error:
    raise ConfigError(
        f"the live view needs {error.name}; run `pip install nac_ros[view]`"
    ) from error

TIME = "ros_time"
STATES = ("inactive", *get_args(GuardState))  # a guard state's number is its place here
COLOURS = {"planned": 0x9AA9B8FF, "commanded": 0x0072B2FF, "measured": 0xD55E00FF}  # as reports
LATENCIES = {  # value in the policy's report -> entity below `latency`
    "latency_ms": "observation_to_chunk",
    "plan_ms": "plan",
    "decode_ms": "decode",
    "budget_ms": "executed_steps",
}
AGE = "chunk_age"
EVENTS = ("policy/events", "guard/events")
BATCH_S, BATCH_ROWS = 0.1, 100  # joint samples are sent together once they span or count this much
JPEG_QUALITY = 85
DRAIN_S, END_S = 0.3, 5.0  # patience with a sink while running, and at the beginning and the end
PAST_S, AHEAD_S = 20.0, 1.5  # what a plot shows around the cursor; plans lie ahead of it

Source = Literal["commanded", "measured"]
Rows = list[tuple[float, np.ndarray]]


class LiveLog:
    """Takes values with their stamps [s] and sends them to a file or a viewer.

    Joints `[D]` [rad or m] go to joints/<joint>/planned|commanded|measured, images to
    cameras/<camera>, at most `images_hz` of each.
    """

    def __init__(self, spec: RobotSpec, images_hz: float):
        self._spec, self._images_hz = spec, images_hz
        self._recording = rr.RecordingStream("nac_ros")
        self._rows: dict[Source, Rows] = {"commanded": [], "measured": []}
        self._slots: dict[str, int] = {}
        self._taken = True
        self._said: dict[str, dict[str, str]] = {}
        self._chunk_stamp: float | None = None

    def save(self, path: Path) -> None:
        """Into a new .rrd file."""
        if path.exists():
            raise NacError(f"view: {path} exists already; give `save` another name")
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._recording.save(path, default_blueprint=blueprint(self._spec))
        except (OSError, RuntimeError) as error:
            raise NacError(f"view: cannot write {path}: {error}") from error
        self._style()

    def connect(self, url: str) -> None:
        """To a viewer that listens already."""
        self._recording.connect_grpc(url, default_blueprint=blueprint(self._spec))
        self._style()
        if not self.drain(END_S):
            raise NacError(f"view: what listens at {url} is no rerun viewer of this version")

    def drain(self, timeout_s: float = DRAIN_S) -> bool:
        """Whether file or viewer took everything in time; while not, what comes is dropped.

        Called once per second it bounds what rerun keeps for a viewer that is slow or gone.
        """
        try:
            self._recording.flush(timeout_sec=timeout_s)
        except RuntimeError:  # not in time, and never any more, are the same to us
            self._taken = False
            self._said.clear()  # to be told again
        else:
            self._taken = True
        return self._taken

    def close(self) -> bool:
        """Sends what is left; whether it was taken."""
        for source in self._rows:
            self._send_rows(source)
        taken = self.drain(END_S)
        self._recording.disconnect()
        return taken

    def joints(self, source: Source, stamp: float, positions: np.ndarray) -> None:
        """Positions `[D]` that were commanded or measured."""
        rows = self._rows[source]
        rows.append((stamp, positions))
        if stamp - rows[0][0] >= BATCH_S or len(rows) >= BATCH_ROWS:
            self._send_rows(source)

    def plan(self, chunk: ActionChunk) -> None:
        """Every point of a chunk at the time it is due."""
        for name, column in zip(chunk.names, chunk.actions.T):
            self._send(
                ("joints", name, "planned"), chunk.times, rr.Scalars.columns(scalars=column)
            )

    def image(self, camera: str, stamp: float, image: np.ndarray) -> None:
        """An RGB uint8 `[H, W, 3]` image, unless one of the same time slot was sent."""
        slot = int(stamp * self._images_hz)
        if self._slots.get(camera) == slot:
            return
        self._slots[camera] = slot
        quality = [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY]
        _, data = cv2.imencode(".jpg", cv2.cvtColor(image, cv2.COLOR_RGB2BGR), quality)
        columns = rr.EncodedImage.columns(blob=[data.tobytes()], media_type=["image/jpeg"])
        self._send(("cameras", camera), [stamp], columns)

    def policy(self, stamp: float, report: Mapping[str, Any], level: str) -> None:
        """Its diagnostics: what it says when that changes, timing and tokens of each new chunk."""
        self._event("policy", stamp, level, {"": report["message"]})
        if report.get("chunk_stamp") in (None, self._chunk_stamp):
            return
        self._chunk_stamp = report["chunk_stamp"]
        for key, name in LATENCIES.items():
            if key in report:
                self._scalar(("latency", name), stamp, report[key])
        if report.get("tokens"):
            tokens = rr.datatypes.TensorData(array=np.array(report["tokens"], np.int64))
            self._send(("policy", "tokens"), [stamp], rr.BarChart.columns(values=[tokens]))

    def guard(self, stamp: float, report: Mapping[str, Any], level: str) -> None:
        """Its diagnostics: state as a number, age of its chunk, and changes in words."""
        if report.get("state") in STATES:
            self._scalar(("guard", "state"), stamp, STATES.index(report["state"]))
        if report.get("chunk_age_s") is not None:
            self._scalar(("latency", AGE), stamp, 1e3 * report["chunk_age_s"])
        words = {"mode ": "mode", "fault ": "fault", "refused: ": "last_refusal"}
        said = {prefix: report.get(key, "") for prefix, key in words.items()}
        self._event("guard", stamp, level, {"": report["message"], **said})

    def _event(self, node: str, stamp: float, level: str, said: Mapping[str, str]) -> None:
        """One line with whatever a node says differently than before; prefix -> text."""
        known = self._said.setdefault(node, dict.fromkeys(said, ""))
        news = {prefix: text for prefix, text in said.items() if text != known[prefix]}
        if not news:
            return
        known.update(news)
        line = "; ".join(f"{prefix}{text or 'none'}" for prefix, text in news.items())
        self._send((node, "events"), [stamp], rr.TextLog.columns(text=[line], level=[level]))

    def _scalar(self, path: Sequence[str], stamp: float, value: float) -> None:
        self._send(path, [stamp], rr.Scalars.columns(scalars=[value]))

    def _send_rows(self, source: Source) -> None:
        rows, self._rows[source] = self._rows[source], []
        if not rows:
            return
        stamps, positions = [stamp for stamp, _ in rows], np.array([p for _, p in rows])
        for name, column in zip(self._spec.joint_names, positions.T):
            self._send(("joints", name, source), stamps, rr.Scalars.columns(scalars=column))

    def _send(self, path: Sequence[str], stamps: Any, columns: Any) -> None:
        """Rows at stamps `[N]` [s]; as columns they lie on no other time line than TIME."""
        if not self._taken:
            return
        time = rr.TimeColumn(TIME, timestamp=stamps)
        self._recording.send_columns(_entity(*path), indexes=[time], columns=columns)

    def _style(self) -> None:
        """Names, units and colours of the series; plans are points, for they overlap in time."""
        for joint in self._spec.joints:
            for source, colour in COLOURS.items():
                label = {"names": f"{source} [{joint.unit}]", "colors": colour}
                points = rr.SeriesPoints(markers="circle", marker_sizes=1.5, **label)
                look = points if source == "planned" else rr.SeriesLines(widths=1.5, **label)
                self._recording.log(_entity("joints", joint.name, source), look, static=True)
        for name in (*LATENCIES.values(), AGE):
            look = rr.SeriesLines(names=f"{name.replace('_', ' ')} [ms]")
            self._recording.log(_entity("latency", name), look, static=True)
        states = ", ".join(f"{number} {state}" for number, state in enumerate(STATES))
        self._recording.log("guard/state", rr.SeriesLines(names=states), static=True)


def blueprint(spec: RobotSpec) -> rrb.Blueprint:
    """Cameras left, a plot for each joint in the middle; latency, state, tokens, events right."""
    cameras = [
        rrb.Spatial2DView(origin=_entity("cameras", c.name), name=c.name) for c in spec.cameras
    ]
    joints = [_plot(f"joints/{j.name} [{j.unit}]", _entity("joints", j.name)) for j in spec.joints]
    rest = rrb.Vertical(
        _plot("latency [ms]", "latency"),
        _plot("guard state", "guard/state"),
        rrb.BarChartView(origin="policy/tokens", name="newest tokens"),
        rrb.TextLogView(contents=list(EVENTS), name="policy and guard"),
    )
    columns = rrb.Horizontal(
        rrb.Vertical(*cameras), rrb.Grid(*joints, grid_columns=2), rest, column_shares=[2, 4, 3]
    )
    return rrb.Blueprint(columns, rrb.TimePanel(timeline=TIME, state="collapsed"))


def _plot(name: str, origin: str) -> rrb.TimeSeriesView:
    around = rrb.VisibleTimeRange(
        TIME,
        start=rrb.TimeRangeBoundary.cursor_relative(seconds=-PAST_S),
        end=rrb.TimeRangeBoundary.cursor_relative(seconds=AHEAD_S),
    )
    return rrb.TimeSeriesView(origin=origin, name=name, time_ranges=[around])


def _entity(*parts: str) -> str:
    """A path whose parts may hold any character."""
    return rr.new_entity_path(list(parts))


ALL_HZ = 1000.0  # every image


def robot_of_dataset(dataset: AnyDataset) -> RobotSpec:
    """The robot of its name, if its joints are the dataset's; raises UnknownName."""
    if dataset.robot_type in list_robots():
        spec = load_robot(dataset.robot_type)
        if spec.joint_names == tuple(dataset.names):
            return spec
    raise UnknownName(
        f"{dataset.root} is of robot '{dataset.robot_type}', which config/robots does not know"
    )


def write_rerun(path: Path, dataset: AnyDataset, index: int) -> Path:
    """Writes a new .rrd file; raises UnknownName for a robot that nobody described."""
    spec, episode = robot_of_dataset(dataset), dataset.episode(index)
    log = LiveLog(spec, ALL_HZ)
    log.save(path)
    for k in range(len(episode)):
        stamp = k / dataset.fps
        if episode.stamps_ns is not None:
            stamp = 1e-9 * episode.stamps_ns[k]
        log.joints("measured", stamp, episode.proprio[k])
        log.joints("commanded", stamp + 1 / dataset.fps, episode.actions[k])
        for camera, images in episode.images.items():
            log.image(camera, stamp, images[k])
    log.close()
    return path


LOOPBACK = ("127.0.0.1", "localhost")
START_S = 20.0  # a viewer that does not listen by then does not come
SETTLE_S = 1.0  # one without a display listens first and ends right after
POLL_S = 0.1
MEMORY = "25%"  # of this machine's; above it a viewer drops the oldest data
INSTEAD = "give a file name as `save`, or the address of a viewer elsewhere as `connect`"


def split_address(address: str) -> tuple[str, int]:
    """Host and port of `host:port`; raises ConfigError for anything else."""
    host, _, port = address.rpartition(":")
    if not host or not port.isdigit() or not 0 < int(port) < 65536:
        raise ConfigError(f"view: connect must be host:port, such as 127.0.0.1:9876: '{address}'")
    return host, int(port)


def find_viewer(address: str) -> str:
    """URL of the viewer at `host:port`; on this machine one is opened where none listens.

    Raises NacError when there is none and none can be opened.
    """
    host, port = split_address(address)
    if not _listens(host, port):
        if host not in LOOPBACK:
            raise NacError(
                f"no rerun viewer listens at {address}; start one there with `rerun --port {port}`"
            )
        _open(host, port)
    return f"rerun+http://{address}/proxy"


def _listens(host: str, port: int) -> bool:
    try:
        socket.create_connection((host, port), timeout=1.0).close()
    except OSError:
        return False
    return True


def _open(host: str, port: int) -> None:
    """A viewer in a session of its own, which outlives the node and listens to `host` only."""
    command = [sys.executable, "-m", "rerun_cli", "--port", str(port), "--hide-welcome-screen"]
    command += ["--bind", host.replace("localhost", LOOPBACK[0]), "--memory-limit", MEMORY]
    with tempfile.TemporaryFile() as log:
        viewer = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True
        )
        _wait(viewer, log, lambda: _listens(host, port), START_S)
        if not _listens(host, port):
            os.killpg(viewer.pid, signal.SIGTERM)
            raise NacError(f"the rerun viewer did not listen within {START_S:.0f} s; {INSTEAD}")
        _wait(viewer, log, lambda: False, SETTLE_S)


def _wait(
    viewer: subprocess.Popen, log: BinaryIO, ready: Callable[[], bool], seconds: float
) -> None:
    """Until `ready()` or time is up; raises NacError with the viewer's last words if it ends."""
    deadline = time.monotonic() + seconds
    while not ready() and time.monotonic() < deadline:
        if viewer.poll() is not None:
            log.seek(0)
            lines = log.read().decode(errors="replace").strip().splitlines()
            said = lines[-1] if lines else "it said nothing"
            raise NacError(f"no rerun viewer can be opened here ({said}); {INSTEAD}")
        time.sleep(POLL_S)
