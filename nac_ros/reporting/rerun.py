"""Everything for rerun: a logger of robot data, export of dataset episodes, and its viewer."""

import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO, Literal, get_args

import numpy as np

from nac_ros.control.types import GuardState
from nac_ros.core.errors import ConfigError, NacError, UnknownName
from nac_ros.core.image_codec import encode_jpeg
from nac_ros.core.types import ActionChunk
from nac_ros.datasets.factory import AnyDataset
from nac_ros.robot.spec import RobotSpec, list_robots, load_robot

try:
    import rerun as rr
    import rerun.blueprint as rrb
except ModuleNotFoundError as error:
    rr, _MISSING = None, error.name

TIME = "ros_time"
STATES = ("inactive", *get_args(GuardState))  # the index of a guard state is its logged number
COLOURS = {"planned": 0x9AA9B8FF, "commanded": 0x0072B2FF, "measured": 0xD55E00FF}  # as in reports
LATENCIES = {  # key of the policy's status -> entity below `latency`
    "latency_ms": "observation_to_chunk",
    "predict_ms": "predict",
    "decode_ms": "decode",
    "budget_ms": "executed_steps",
}
AGE = "chunk_age"
EVENT_PREFIXES = {"mode": "mode ", "fault": "fault ", "last_rejection": "rejected: "}
BATCH_S, BATCH_ROWS = 0.1, 100  # joint samples are sent when they reach this duration or number
ALL_HZ = 1000.0  # limit of the image rate that drops no image
JPEG_QUALITY = 85
FLUSH_S, END_S = 0.3, 5.0  # timeout of a flush while running, and at the start and the end
PAST_S, FUTURE_S = 20.0, 1.5  # time range of a plot around the cursor; planned points lie ahead

LOOPBACK = ("127.0.0.1", "localhost")
START_S = 20.0  # timeout for a new viewer to listen
SETTLE_S = 1.0  # a viewer without a display listens at first and exits within this time
POLL_S = 0.1
MEMORY = "25%"  # of the machine's memory; above it a viewer drops its oldest data
ALTERNATIVES = "give a file name as `save`, or the address of a viewer elsewhere as `connect`"

Source = Literal["commanded", "measured"]
Rows = list[tuple[float, np.ndarray]]


class RerunLogger:
    """Logs stamped values [s] to a file or a viewer.

    Joints `[D]` [rad or m] become entities joints/<joint>/planned|commanded|measured, images
    become cameras/<camera>, at most `images_hz` of each. Raises ConfigError without rerun.
    """

    def __init__(self, spec: RobotSpec, images_hz: float):
        if rr is None:
            raise ConfigError(f"the live view needs {_MISSING}; run `pip install nac_ros[view]`")
        self._spec, self._images_hz = spec, images_hz
        self._recording = rr.RecordingStream("nac_ros")
        self._rows: dict[Source, Rows] = {"commanded": [], "measured": []}
        self._image_slots: dict[str, int] = {}
        self._is_delivered = True
        self._last_events: dict[str, dict[str, str]] = {}
        self._chunk_stamp: float | None = None

    def save(self, path: Path) -> None:
        """Logs to a new .rrd file; raises NacError if it exists or cannot be written."""
        if path.exists():
            raise NacError(f"view: {path} exists already; give `save` another name")
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._recording.save(path, default_blueprint=make_blueprint(self._spec))
        except (OSError, RuntimeError) as error:
            raise NacError(f"view: cannot write {path}: {error}") from error
        self._log_styles()

    def connect(self, url: str) -> None:
        """Logs to a viewer that listens at `url`; raises NacError if it does not answer."""
        self._recording.connect_grpc(url, default_blueprint=make_blueprint(self._spec))
        self._log_styles()
        if not self.flush(END_S):
            raise NacError(f"view: no rerun viewer of this version answers at {url}")

    def flush(self, timeout_s: float = FLUSH_S) -> bool:
        """Whether file or viewer took everything in time; until it does, new values are dropped.

        Called once per second it bounds the memory that rerun needs for a slow or closed viewer.
        """
        try:
            self._recording.flush(timeout_sec=timeout_s)
            self._is_delivered = True
        except RuntimeError:  # a timeout and a closed viewer raise the same
            self._is_delivered = False
            self._last_events.clear()  # so that the present texts are logged again
        return self._is_delivered

    def close(self) -> bool:
        """Sends all that is left; whether file or viewer took it."""
        for source in self._rows:
            self._send_rows(source)
        is_delivered = self.flush(END_S)
        self._recording.disconnect()
        return is_delivered

    def log_joints(self, source: Source, stamp: float, positions: np.ndarray) -> None:
        """Commanded or measured positions `[D]`."""
        rows = self._rows[source]
        rows.append((stamp, positions))
        if stamp - rows[0][0] >= BATCH_S or len(rows) >= BATCH_ROWS:
            self._send_rows(source)

    def log_chunk(self, chunk: ActionChunk) -> None:
        """Every point of a chunk at the time when it is due."""
        for name, column in zip(chunk.names, chunk.actions.T):
            scalars = rr.Scalars.columns(scalars=column)
            self._send(("joints", name, "planned"), chunk.times, scalars)

    def log_image(self, camera: str, stamp: float, image: np.ndarray) -> None:
        """An RGB uint8 `[H, W, 3]` image, unless one of the same time slot was sent."""
        slot = int(stamp * self._images_hz)
        if self._image_slots.get(camera) == slot:
            return
        self._image_slots[camera] = slot
        blobs = [encode_jpeg(image, JPEG_QUALITY)]
        columns = rr.EncodedImage.columns(blob=blobs, media_type=["image/jpeg"])
        self._send(("cameras", camera), [stamp], columns)

    def log_policy_status(self, stamp: float, status: Mapping[str, Any], level: str) -> None:
        """The policy's diagnostics: its message, and timing and tokens of each new chunk."""
        self._log_changes("policy", stamp, level, {"": status["message"]})
        if status.get("chunk_stamp") in (None, self._chunk_stamp):
            return
        self._chunk_stamp = status["chunk_stamp"]
        for key, name in LATENCIES.items():
            if key in status:
                self._log_scalar(("latency", name), stamp, status[key])
        if status.get("tokens"):
            tokens = rr.datatypes.TensorData(array=np.array(status["tokens"], np.int64))
            self._send(("policy", "tokens"), [stamp], rr.BarChart.columns(values=[tokens]))

    def log_guard_status(self, stamp: float, status: Mapping[str, Any], level: str) -> None:
        """The guard's diagnostics: state as a number, age of its chunk, and changed texts."""
        if status.get("state") in STATES:
            self._log_scalar(("guard", "state"), stamp, STATES.index(status["state"]))
        if status.get("chunk_age_s") is not None:
            self._log_scalar(("latency", AGE), stamp, 1e3 * status["chunk_age_s"])
        texts = {prefix: status.get(key, "") for key, prefix in EVENT_PREFIXES.items()}
        self._log_changes("guard", stamp, level, {"": status["message"], **texts})

    def _log_changes(self, node: str, stamp: float, level: str, texts: Mapping[str, str]) -> None:
        """One line with all texts of a node that have changed; texts: prefix -> text."""
        last = self._last_events.setdefault(node, dict.fromkeys(texts, ""))
        changed = {prefix: text for prefix, text in texts.items() if text != last[prefix]}
        if not changed:
            return
        last.update(changed)
        line = "; ".join(f"{prefix}{text or 'none'}" for prefix, text in changed.items())
        self._send((node, "events"), [stamp], rr.TextLog.columns(text=[line], level=[level]))

    def _log_scalar(self, path: Sequence[str], stamp: float, value: float) -> None:
        self._send(path, [stamp], rr.Scalars.columns(scalars=[value]))

    def _send_rows(self, source: Source) -> None:
        rows, self._rows[source] = self._rows[source], []
        if not rows:
            return
        stamps, positions = [stamp for stamp, _ in rows], np.array([p for _, p in rows])
        for name, column in zip(self._spec.joint_names, positions.T):
            self._send(("joints", name, source), stamps, rr.Scalars.columns(scalars=column))

    def _send(self, path: Sequence[str], stamps: Any, columns: Any) -> None:
        """Rows at stamps `[N]` [s]; sent as columns they are on the time line TIME alone."""
        if self._is_delivered:
            time_column = rr.TimeColumn(TIME, timestamp=stamps)
            self._recording.send_columns(_entity(*path), indexes=[time_column], columns=columns)

    def _log_styles(self) -> None:
        """Names, units and colours of the series; chunks are points, as they overlap in time."""
        for joint in self._spec.joints:
            for source, colour in COLOURS.items():
                label = {"names": f"{source} [{joint.unit}]", "colors": colour}
                points = rr.SeriesPoints(markers="circle", marker_sizes=1.5, **label)
                style = points if source == "planned" else rr.SeriesLines(widths=1.5, **label)
                self._recording.log(_entity("joints", joint.name, source), style, static=True)
        for name in (*LATENCIES.values(), AGE):
            style = rr.SeriesLines(names=f"{name.replace('_', ' ')} [ms]")
            self._recording.log(_entity("latency", name), style, static=True)
        states = ", ".join(f"{number} {state}" for number, state in enumerate(STATES))
        self._recording.log("guard/state", rr.SeriesLines(names=states), static=True)


def make_blueprint(spec: RobotSpec) -> "rrb.Blueprint":
    """Layout of the viewer: cameras, a plot for each joint; latency, state, tokens and events."""
    cameras = [
        rrb.Spatial2DView(origin=_entity("cameras", c.name), name=c.name) for c in spec.cameras
    ]
    joints = [_plot(f"joints/{j.name} [{j.unit}]", _entity("joints", j.name)) for j in spec.joints]
    rest = rrb.Vertical(
        _plot("latency [ms]", "latency"),
        _plot("guard state", "guard/state"),
        rrb.BarChartView(origin="policy/tokens", name="newest tokens"),
        rrb.TextLogView(contents=["policy/events", "guard/events"], name="policy and guard"),
    )
    columns = rrb.Horizontal(
        rrb.Vertical(*cameras), rrb.Grid(*joints, grid_columns=2), rest, column_shares=[2, 4, 3]
    )
    return rrb.Blueprint(columns, rrb.TimePanel(timeline=TIME, state="collapsed"))


def _plot(name: str, origin: str) -> "rrb.TimeSeriesView":
    around = rrb.VisibleTimeRange(
        TIME,
        start=rrb.TimeRangeBoundary.cursor_relative(seconds=-PAST_S),
        end=rrb.TimeRangeBoundary.cursor_relative(seconds=FUTURE_S),
    )
    return rrb.TimeSeriesView(origin=origin, name=name, time_ranges=[around])


def _entity(*parts: str) -> str:
    """An entity path; its parts may contain any character."""
    return rr.new_entity_path(list(parts))


def write_rerun(path: Path, dataset: AnyDataset, index: int) -> Path:
    """Writes episode `index` to a new .rrd file, with the entities of the live view.

    Raises UnknownName if config/robots does not have the dataset's robot.
    """
    spec, episode = _robot_of(dataset), dataset.episode(index)
    log = RerunLogger(spec, ALL_HZ)
    log.save(path)
    for k in range(len(episode)):
        stamp = k / dataset.fps
        if episode.stamps_ns is not None:
            stamp = 1e-9 * episode.stamps_ns[k]
        log.log_joints("measured", stamp, episode.proprio[k])
        log.log_joints("commanded", stamp + 1 / dataset.fps, episode.actions[k])
        for camera, images in episode.images.items():
            log.log_image(camera, stamp, images[k])
    log.close()
    return path


def _robot_of(dataset: AnyDataset) -> RobotSpec:
    if dataset.robot_type in list_robots():
        spec = load_robot(dataset.robot_type)
        if spec.joint_names == tuple(dataset.names):
            return spec
    raise UnknownName(
        f"{dataset.root} is of robot '{dataset.robot_type}', which config/robots does not know"
    )


def split_address(address: str) -> tuple[str, int]:
    """Host and port of `host:port`; raises ConfigError for anything else."""
    host, _, port = address.rpartition(":")
    if not host or not port.isdigit() or not 0 < int(port) < 65536:
        raise ConfigError(f"view: connect must be host:port, such as 127.0.0.1:9876: '{address}'")
    return host, int(port)


def ensure_viewer(address: str) -> str:
    """URL of the viewer at `host:port`; on this machine one is started if none listens.

    Raises NacError if there is no viewer and none can be started.
    """
    host, port = split_address(address)
    if not _listens(host, port):
        if host not in LOOPBACK:
            raise NacError(
                f"no rerun viewer listens at {address}; start one there with `rerun --port {port}`"
            )
        _start_viewer(host, port)
    return f"rerun+http://{address}/proxy"


def _listens(host: str, port: int) -> bool:
    try:
        socket.create_connection((host, port), timeout=1.0).close()
    except OSError:
        return False
    return True


def _start_viewer(host: str, port: int) -> None:
    """Starts a viewer in its own session, which outlives the node and listens to `host` only."""
    command = [sys.executable, "-m", "rerun_cli", "--port", str(port), "--hide-welcome-screen"]
    command += ["--bind", host.replace("localhost", LOOPBACK[0]), "--memory-limit", MEMORY]
    with tempfile.TemporaryFile() as output:
        viewer = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=output, stderr=output, start_new_session=True
        )
        deadline = time.monotonic() + START_S
        while not _listens(host, port):
            _check_running(viewer, output)
            if time.monotonic() > deadline:
                os.killpg(viewer.pid, signal.SIGTERM)
                raise NacError(
                    f"the rerun viewer did not listen within {START_S:.0f} s; {ALTERNATIVES}"
                )
            time.sleep(POLL_S)
        time.sleep(SETTLE_S)
        _check_running(viewer, output)


def _check_running(viewer: subprocess.Popen, output: BinaryIO) -> None:
    """Raises NacError with the last line of the viewer's output if it has exited."""
    if viewer.poll() is not None:
        output.seek(0)
        lines = output.read().decode(errors="replace").strip().splitlines()
        reason = lines[-1] if lines else "it printed nothing"
        raise NacError(f"no rerun viewer can be opened here ({reason}); {ALTERNATIVES}")
