"""The shared scene: its parts, and error messages when parts are missing."""

import dataclasses
import importlib.util
import os
import subprocess
import sys

import numpy as np
import pytest

from nac_ros.core.errors import SimulationError
from nac_ros.robot.spec import load_robot
from nac_ros.simulation import scene
from nac_ros.simulation.arm import SimulatedArm
from nac_ros.simulation.rendering import mujoco

SPEC = load_robot("vx300s")


@pytest.fixture(scope="module")
def model():
    return scene.build_scene(SPEC).compile()


def import_with(gl: str) -> subprocess.CompletedProcess:
    code = (
        "from nac_ros.core.errors import SimulationError\n"
        "try:\n"
        "    from nac_ros.simulation.rendering import mujoco, open_renderer\n"
        "    open_renderer(mujoco.MjModel.from_xml_string('<mujoco/>'), 8, 8)\n"
        "except SimulationError as error:\n"
        "    print(error)\n"
    )
    environment = {**os.environ, "MUJOCO_GL": gl, "PYOPENGL_PLATFORM": ""}
    return subprocess.run(
        [sys.executable, "-c", code],
        check=False,
        env=environment,
        capture_output=True,
        text=True,
        timeout=60,
    )


@pytest.mark.parametrize("gl", ["no_such_library", "disable"])
def test_without_gl_one_sentence_names_the_remedy(gl):
    run = import_with(gl)
    assert run.returncode == 0, run.stderr
    lines = run.stdout.strip().splitlines()
    assert len(lines) == 1
    assert f"MUJOCO_GL={gl}" in lines[0]
    assert "apt-get install libegl1 libgl1-mesa-dri" in lines[0]
    assert "MUJOCO_GL=osmesa" in lines[0]


def test_without_gym_aloha_the_error_names_the_extra(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(SimulationError, match=r"pip install nac_ros\[sim\]"):
        scene.build_scene(SPEC)


def test_another_robot_is_rejected():
    other = dataclasses.replace(SPEC, joints=SPEC.joints[::-1])
    with pytest.raises(SimulationError, match="the twin is a ViperX 300"):
        scene.build_scene(other)


def test_the_scene_has_every_camera_of_the_robot_and_the_spectator(model):
    for name in (*(camera.name for camera in SPEC.cameras), "spectator"):
        assert model.camera(name).id >= 0


def test_the_limits_of_the_robot_file_are_those_of_the_model(model):
    for joint in SPEC.joints[:-1]:
        low, high = model.joint(scene.PREFIX + joint.name).range
        assert joint.position == pytest.approx((low, high), abs=1e-4)
    travel = 2 * (scene.FINGER_OPEN - scene.FINGER_CLOSED)
    assert SPEC.joints[-1].position == pytest.approx((0.0, travel))


def test_positions_that_are_set_are_measured(model):
    arm = SimulatedArm(model, mujoco.MjData(model))
    wanted = SPEC.home + 0.01
    wanted[-1] = 0.03
    arm.set_positions(wanted)
    np.testing.assert_allclose(arm.positions(), wanted, atol=1e-6)


def test_a_camera_points_at_its_target():
    quat = scene.look_at(np.array([1.0, 2, 3]), np.array([0.0, 0, 0]), np.array([0, 0, 1]))
    axes = np.zeros(9)
    mujoco.mju_quat2Mat(axes, quat)
    ahead = -axes.reshape(3, 3)[:, 2]
    np.testing.assert_allclose(ahead, -np.array([1, 2, 3]) / np.sqrt(14), atol=1e-9)
