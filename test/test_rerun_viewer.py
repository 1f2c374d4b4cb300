"""The viewer of the live view: one that listens, one that freezes, and none."""

import os
import signal
import socket
import subprocess
import sys

import numpy as np
import pytest

pytest.importorskip("rclpy")

from fake_ros_graph import NEEDS, RAMP, SPEC, STAMP, series, wait, watch

from nac_ros.core.errors import NacError
from nac_ros.reporting.rerun import ensure_viewer


@pytest.fixture
def viewer(tmp_path):
    """Port, process and file of a viewer without a window."""
    pytest.importorskip("rerun", reason=NEEDS)
    path, port = tmp_path / "seen.rrd", free_port()
    command = [sys.executable, "-m", "rerun_cli", "--save", str(path), "--bind", "127.0.0.1"]
    process = subprocess.Popen([*command, "--port", str(port)], start_new_session=True)
    try:
        wait(lambda: listens(port), "the viewer")
        yield port, process, path
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def test_a_running_viewer_receives_the_entities(viewer, tmp_path):
    from rerun.dataframe import load_recording

    port, _, path = viewer
    watch(tmp_path, connect=f"127.0.0.1:{port}")
    wait(lambda: has_rows(load_recording(path), "guard/state", 4), "the sent rows")
    seen = load_recording(path)
    np.testing.assert_allclose(series(seen, "guard/state")[0], np.arange(4), atol=1e-6)
    stamps, values = series(seen, "joints/elbow/commanded")
    np.testing.assert_allclose(values, stamps + RAMP[2] + 1, atol=1e-6)


def test_values_for_a_frozen_viewer_are_dropped_until_it_continues(viewer):
    from nac_ros.reporting.rerun import RerunLogger

    port, process, _ = viewer
    noise = np.random.default_rng(0).integers(0, 255, (480, 640, 3), np.uint8)
    log = RerunLogger(SPEC, 1000.0)
    log.connect(ensure_viewer(f"127.0.0.1:{port}"))
    os.killpg(process.pid, signal.SIGSTOP)
    delivered, before = True, memory()
    for i in range(300):
        log.log_image("scene", STAMP + i / 100, noise)
        if i % 30 == 29:
            delivered = log.flush()
    assert not delivered and memory() - before < 60e6, "300 images are 90 MB"
    os.killpg(process.pid, signal.SIGCONT)
    wait(log.flush, "the viewer to take the rest", 10)
    assert log.close()


def has_rows(recording, entity, n):
    """Whether a recording that still grows has `n` rows of an entity."""
    known = {column.entity_path for column in recording.schema().component_columns()}
    return f"/{entity}" in known and len(series(recording, entity)[0]) == n


def memory():
    """Resident memory of this process [bytes]."""
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def test_without_a_viewer_program_the_node_names_alternatives():
    pytest.importorskip("rerun", reason=NEEDS)
    error = stderr_of_node(f"connect:=127.0.0.1:{free_port()}", RERUN_CLI_PATH="/nowhere/rerun")
    assert "no rerun viewer can be opened here" in error and "`save`" in error


def test_no_viewer_is_started_on_another_machine():
    with pytest.raises(NacError, match=r"no rerun viewer listens at 127\.0\.0\.2"):
        ensure_viewer(f"127.0.0.2:{free_port()}")


def test_without_rerun_the_node_names_the_package_to_install():
    absent = "import sys; sys.modules['rerun'] = None; from nac_ros.nodes.view import main; main()"
    assert "pip install nac_ros[view]" in stderr_of_node(program=("-c", absent))


def stderr_of_node(*parameters, program=("-m", "nac_ros.nodes.view"), **variables):
    """Error output of a view that cannot start."""
    arguments = [part for parameter in parameters for part in ("-p", parameter)]
    done = subprocess.run(
        [sys.executable, *program, *(["--ros-args", *arguments] if arguments else [])],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        env={**os.environ, "ROS_AUTOMATIC_DISCOVERY_RANGE": "LOCALHOST", **variables},
    )
    assert done.returncode == 2 and "Traceback" not in done.stderr, done.stderr
    return done.stderr


def listens(port):
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]
