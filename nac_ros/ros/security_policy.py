"""Who may say what: the access control policy of SROS 2, made from a robot's YAML.

Run as a module it prints the policy: `python3 -m nac_ros.ros.security_policy vx300s`.
"""

import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from xml.etree import ElementTree as xml

from nac_ros.core.errors import NacError
from nac_ros.datasets.mcap.topics import recorded_topics
from nac_ros.robot.spec import CameraSpec, RobotSpec, load_robot
from nac_ros.ros.controller_state import state_topic

ENCLAVE = "/nac_ros/{}"
GUARD_SERVICES = ("guard/stop", "guard/reset", "guard/ramp")
SEEN = ("guard/command", "policy/chunk", "diagnostics")
CAMERA_NODE = "camera_{}"
PARAMETERS = (
    "describe_parameters", "get_parameter_types", "get_parameters", "list_parameters",
    "set_parameters", "set_parameters_atomically", "get_type_description",
)  # fmt: skip
LIFECYCLE = (
    "change_state", "get_available_states", "get_available_transitions", "get_state",
    "get_transition_graph",
)  # fmt: skip
RECORDING = tuple(f"recorder/{name}" for name in ("start", "stop", "fail", "discard", "mark"))


@dataclass(frozen=True)
class Access:
    """Names relative to the namespace, `~` for the node's own.

    publishes, subscribes: topics; offers, calls: services
    """

    publishes: tuple[str, ...] = ()
    subscribes: tuple[str, ...] = ()
    offers: tuple[str, ...] = ()
    calls: tuple[str, ...] = ()
    lifecycle: bool = False


def camera_node(camera: str) -> str:
    """Name of the node that runs it."""
    return CAMERA_NODE.format(camera)


def node_access(spec: RobotSpec) -> dict[str, Access]:
    """Node -> what it may do on `spec`; `operator` is who starts, stops and watches the others,
    `driver` the arm's and the cameras' side."""
    arm = tuple(group.topic for group in spec.groups)
    cameras = tuple(t for c in spec.cameras for t in (c.topic, c.compressed_topic))
    camera_nodes = [camera_node(camera.name) for camera in spec.cameras]
    joints = (spec.joint_states_topic,)
    held = tuple(state_topic(group.topic) for group in spec.groups if group.kind == "jtc")
    return {
        "guard": Access(
            ("guard/command", "diagnostics", *arm),
            (*joints, *held, "policy/chunk", "teleop/command", "policy/heartbeat", "guard/mode"),
            GUARD_SERVICES,
            lifecycle=True,
        ),
        "policy": Access(
            ("policy/chunk", "policy/heartbeat", "diagnostics"),
            (*joints, *cameras, "task"),
            ("~/start", "~/stop"),
            lifecycle=True,
        ),
        "teleop": Access(
            ("teleop/command", "guard/mode", "diagnostics"),
            ("joy", "leader/joint_states", "guard/command", "diagnostics"),
            calls=("guard/stop", *RECORDING),
            lifecycle=True,
        ),
        "recorder": Access(
            ("diagnostics",),
            tuple(f.topic for f in recorded_topics(spec)),
            tuple(name.replace("recorder", "~") for name in RECORDING),
            lifecycle=True,
        ),
        "twin": Access((*joints, *cameras, "~/outcome", "~/set_point"), arm, ("~/reset",)),
        "driver": Access((*joints, *held, *cameras), arm),
        **{node: _camera(camera) for node, camera in zip(camera_nodes, spec.cameras)},
        "trials": _trials(spec, cameras),
        "view": Access((), (*joints, *cameras, *SEEN)),
        "operator": _operator(camera_nodes),
    }


def _operator(camera_nodes: Sequence[str]) -> Access:
    managed = ("guard", "policy", "teleop", "recorder", *camera_nodes)
    states = tuple(f"{node}/{name}" for node in managed for name in LIFECYCLE)
    told = (*managed[:4], "twin", "view", *camera_nodes)
    settings = tuple(f"{node}/{name}" for node in told for name in PARAMETERS)
    trigger = (*GUARD_SERVICES, "policy/start", "policy/stop", "twin/reset", *RECORDING)
    return Access(
        ("guard/mode", "task"), (*SEEN, "twin/outcome"), calls=(*trigger, *states, *settings)
    )


def _trials(spec: RobotSpec, cameras: tuple[str, ...]) -> Access:
    """The operator's console does for trials what `operator` does by hand."""
    loading = tuple(f"policy/{name}" for name in ("change_state", "get_state"))
    told = tuple(f"{node}/set_parameters" for node in ("policy", "recorder", "twin"))
    trigger = ("guard/stop", "guard/reset", "policy/start", "policy/stop", "twin/reset")
    return Access(
        ("guard/mode", "task", "diagnostics"),
        (*cameras, "diagnostics", "twin/outcome"),
        calls=(*trigger, *RECORDING, *loading, *told),
    )


def _camera(camera: CameraSpec) -> Access:
    beside = (camera.sibling_topic("camera_info"), camera.sibling_topic("depth/image_raw"))
    return Access((camera.topic, camera.compressed_topic, *beside, "diagnostics"), lifecycle=True)


def policy_xml(spec: RobotSpec) -> str:
    """The policy file that `ros2 security create_permission` reads (its version 0.2.0)."""
    root = xml.Element("policy", version="0.2.0")
    enclaves = xml.SubElement(root, "enclaves")
    for node, access in node_access(spec).items():
        enclave = xml.SubElement(enclaves, "enclave", path=ENCLAVE.format(node))
        profile = xml.SubElement(xml.SubElement(enclave, "profiles"), "profile", ns="/", node=node)
        own = tuple(
            f"~/{name}" for name in (*PARAMETERS, *(LIFECYCLE if access.lifecycle else ()))
        )
        told = ("rosout", "parameter_events", *(("~/transition_event",) * access.lifecycle))
        _add(profile, "topics", "topic", {"publish": (*told, *access.publishes)})
        _add(profile, "topics", "topic", {"subscribe": ("parameter_events", *access.subscribes)})
        _add(profile, "services", "service", {"reply": (*own, *access.offers)})
        _add(profile, "services", "service", {"request": access.calls})
    xml.indent(root)
    return f"<?xml version='1.0' encoding='UTF-8'?>\n{xml.tostring(root, encoding='unicode')}\n"


def _add(profile: xml.Element, kind: str, item: str, allowed: dict[str, Iterable[str]]) -> None:
    ((verb, names),) = allowed.items()
    if not (names := tuple(names)):
        return
    group = xml.SubElement(profile, kind, {verb: "ALLOW"})
    for name in names:
        xml.SubElement(group, item).text = name


def main() -> int:
    """Prints the policy of the robot named, `vx300s` by default; 2 where there is none."""
    try:
        sys.stdout.write(policy_xml(load_robot(sys.argv[1] if sys.argv[1:] else "vx300s")))
    except NacError as error:
        print(error, file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
