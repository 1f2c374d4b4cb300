"""Random robots for property tests."""

import numpy as np

from nac_ros.robot.spec import CameraSpec, ControllerGroup, JointSpec, RobotSpec


def random_robot(rng: np.random.Generator) -> RobotSpec:
    """A robot with 2 to 16 joints, whose rate limits are drawn from three decades."""
    joints = tuple(_joint(rng, i) for i in range(int(rng.integers(2, 17))))
    names = tuple(joint.name for joint in joints)
    return RobotSpec(
        name="random",
        joints=joints,
        cameras=(CameraSpec(name="c", width=8, height=8, rate_hz=30.0, topic="c/image_raw"),),
        groups=(ControllerGroup(name="arm", kind="jtc", topic="arm/t", joints=names),),
    )


def _joint(rng: np.random.Generator, number: int) -> JointSpec:
    metres = rng.random() < 0.25
    size = 0.1 if metres else 1.0
    gripper = metres and rng.random() < 0.5
    low = size * rng.uniform(-3, 0)
    high = low + size * 10 ** rng.uniform(-0.5, 0.8)
    slowest = high - low if gripper else 0.0  # it may have to open before anything else moves
    return JointSpec(
        name=f"joint_{number}",
        unit="m" if metres else "rad",
        position=(low, high),
        velocity=max(size * 10 ** rng.uniform(-1.5, 1.5), slowest),
        acceleration=size * 10 ** rng.uniform(-0.5, 2.5),
        jerk=size * 10 ** rng.uniform(1, 4),
        home=(low + high) / 2,
        relative=not gripper,
        max_offset=0.05 * size,
    )
