"""The scene that all tasks share: table, light, cameras and the ViperX of the package gym-aloha.

The package's MJCF and meshes are read where they are installed; none of them is copied.
"""

import importlib.util
from pathlib import Path

import numpy as np

from nac_ros.core.errors import SimulationError
from nac_ros.robot.spec import RobotSpec
from nac_ros.simulation.rendering import mujoco

PREFIX = "vx300s_left/"
ARM_JOINTS = ("waist", "shoulder", "elbow", "forearm_roll", "wrist_angle", "wrist_rotate")
FINGERS = ("left_finger", "right_finger")
TOOL_SITE = "tool"
TIMESTEP = 0.002
_HIDDEN = 4  # a geom group that MuJoCo does not draw

# Servo stiffness [N m/rad]; with damping 0.06 x stiffness it follows 30 Hz set-points to 1 mm.
_STIFFNESS = dict(zip(ARM_JOINTS, (800, 1600, 800, 100, 100, 50), strict=True))
_FINGER_STIFFNESS = 800  # [N/m]
FINGER_CLOSED, FINGER_OPEN = 0.021, 0.057  # finger joint range [m], from gym-aloha's MJCF
# Between the finger pads, 9 mm from their tips, in the gripper's frame [m].
TOOL_OFFSET = (0.145, 0, 0)


def assets_dir() -> Path:
    """Folder of the ViperX's MJCF and meshes; raises SimulationError if it is not installed."""
    found = importlib.util.find_spec("gym_aloha")
    if found is None or not found.submodule_search_locations:
        raise SimulationError(
            "the arm's meshes are in the package gym-aloha, which is not installed; "
            "run `pip install nac_ros[sim]`"
        )
    return Path(next(iter(found.submodule_search_locations))) / "assets"


def build_scene(spec: RobotSpec) -> "mujoco.MjSpec":
    """Table, cameras and arm with position servos, to be compiled once a task has added objects.

    Raises SimulationError for a robot with other joints than the ViperX 300.
    """
    if spec.joint_names != (*ARM_JOINTS, "gripper"):
        raise SimulationError(
            f"the twin is a ViperX 300 with the joints {', '.join(ARM_JOINTS)}, gripper; "
            f"robot {spec.name} has {', '.join(spec.joint_names)}"
        )
    scene = mujoco.MjSpec.from_string(_skeleton(assets_dir()))
    # gym-aloha's range 4..5 would leave the tasks' objects without mass
    scene.compiler.inertiagrouprange[:] = [0, 5]
    sky = scene.add_texture(name="sky", type=mujoco.mjtTexture.mjTEXTURE_SKYBOX)
    sky.builtin, sky.width, sky.height = mujoco.mjtBuiltin.mjBUILTIN_GRADIENT, 64, 384
    sky.rgb1, sky.rgb2 = (0.75, 0.8, 0.86), (0.4, 0.42, 0.46)
    _tune_arm(scene)
    _add_cameras(scene)
    return scene


def look_at(position: np.ndarray, target: np.ndarray, up: np.ndarray) -> np.ndarray:
    """Quaternion (w, x, y, z) of a camera at `position` [m] with `target` in its image centre."""
    back = np.asarray(position, float) - target
    back /= np.linalg.norm(back)
    right = np.cross(up, back)
    right /= np.linalg.norm(right)
    quaternion = np.zeros(4)
    axes = np.stack([right, np.cross(back, right), back], axis=1)
    mujoco.mju_mat2Quat(quaternion, axes.ravel())
    return quaternion


def _skeleton(assets: Path) -> str:
    """MJCF that joins the two include files of gym-aloha; the rest is built in Python."""
    return f"""<mujoco><compiler meshdir="{assets}" angle="radian" autolimits="true"/>
    <option timestep="{TIMESTEP}" integrator="implicitfast" cone="elliptic" impratio="10"/>
    <visual><quality shadowsize="0" offsamples="0"/>
      <global offwidth="1280" offheight="960"/><map znear="0.01"/>
      <headlight ambient="0.35 0.35 0.35" diffuse="0.4 0.4 0.4" specular="0 0 0"/></visual>
    <include file="{assets}/vx300s_dependencies.xml"/>
    <worldbody>
      <light pos="0.4 -0.5 1.5" dir="-0.1 0.4 -1" diffuse="0.5 0.5 0.5" castshadow="false"/>
      <geom name="table" type="box" size="0.5 0.5 0.05" pos="0.3 0 -0.05" rgba="0.8 0.78 0.74 1"/>
      <include file="{assets}/vx300s_left.xml"/>
    </worldbody></mujoco>"""


def _tune_arm(scene: "mujoco.MjSpec") -> None:
    scene.body("vx300s_left").pos = [0, 0, 0]
    for body in scene.bodies:
        if body.name.startswith(PREFIX):
            body.gravcomp = 1
    for name in ARM_JOINTS:
        joint = scene.joint(PREFIX + name)
        joint.frictionloss, joint.damping[0], joint.armature = 0.5, 1, 0.05
        _add_servo(scene, name, _STIFFNESS[name], 0.06 * _STIFFNESS[name], 60, joint.range)
    for name in FINGERS:
        joint = scene.joint(PREFIX + name)
        joint.frictionloss, joint.damping[0], joint.armature = 0, 5, 0.1
        _add_servo(scene, name, _FINGER_STIFFNESS, 30, 30, joint.range)
    for site in scene.sites:
        site.group = _HIDDEN
    scene.body(PREFIX + "gripper_link").add_site(name=TOOL_SITE, pos=TOOL_OFFSET, group=_HIDDEN)


def _add_servo(
    scene: "mujoco.MjSpec", name: str, stiffness: float, damping: float, force: float, reach
) -> None:
    servo = scene.add_actuator(name=name, target=PREFIX + name, trntype=mujoco.mjtTrn.mjTRN_JOINT)
    servo.set_to_position(kp=stiffness, kv=damping)
    servo.ctrllimited, servo.ctrlrange = True, reach
    servo.forcelimited, servo.forcerange = True, [-force, force]


def _add_cameras(scene: "mujoco.MjSpec") -> None:
    """`scene` sees 42 cm of table from the front, `wrist` the fingertips, `spectator` all."""
    _add_camera(scene.worldbody, "scene", (0.80, 0.045, 0.62), (0.335, 0.045, 0.02), (0, 0, 1), 31)
    _add_camera(scene.worldbody, "spectator", (0.95, -0.6, 0.62), (0.22, 0, 0.1), (0, 0, 1), 42)
    gripper = scene.body(PREFIX + "gripper_link")
    _add_camera(gripper, "wrist", (0.05, 0, 0.09), (0.155, 0, 0.015), (0, 0, 1), 75)
    scene.delete(scene.camera("left_wrist"))


def _add_camera(parent, name: str, position, target, up, fovy: float) -> None:
    quat = look_at(np.array(position), np.array(target), np.array(up))
    parent.add_camera(name=name, pos=position, quat=quat, fovy=fovy)
