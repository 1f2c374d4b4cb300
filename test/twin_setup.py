"""Helpers of twin tests: place objects and the arm directly, and run physics."""

import numpy as np

from nac_ros.robot.spec import load_robot
from nac_ros.simulation.bodies import FreeBody
from nac_ros.simulation.expert import make_expert_motion
from nac_ros.simulation.tasks.base import HORIZON

SPEC = load_robot("vx300s")


def run(twin, seconds):
    """Runs physics and success detector for `seconds`."""
    twin.step_until(twin.now() + seconds)


def put(twin, name, position, yaw=0.0):
    """Puts the free body `name` at `position` [m], upright, turned by `yaw` [rad] and at rest."""
    FreeBody(twin.model, twin.data, name).set_pose(np.asarray(position), yaw)
    joint = twin.model.joint(name)
    twin.data.qvel[joint.dofadr[0] : joint.dofadr[0] + 6] = 0


def put_tool(twin, position, opening=0.0, yaw=0.0):
    """Moves the arm without physics until its tool is at `position` [m], pointing down."""
    motion = make_expert_motion(twin, np.random.default_rng(0))
    joints = motion.kinematics.solve(np.asarray(position), yaw)
    twin.arm.set_positions(np.append(joints, opening))
    twin.controller.reset(np.append(joints, opening), twin.now())


def skip_to_horizon(twin):
    """Sets the time to the end of the trial."""
    twin.data.time = HORIZON / SPEC.action_rate_hz
    run(twin, 0.1)


def outcome(twin):
    """State and reason of the trial in one line."""
    return f"{twin.outcome().state}: {twin.outcome().reason}"
