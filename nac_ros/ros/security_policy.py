"""Generates the SROS 2 access-control policy of all nodes from a robot's YAML.

Run as a module it prints the policy: `python3 -m nac_ros.ros.security_policy vx300s`.
"""

import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from xml.etree import ElementTree as xml

from nac_ros.core.errors import NacError
from nac_ros.datasets.mcap.topics import recorded_topics
from nac_ros.robot.spec import RobotSpec, load_robot
from nac_ros.ros.controller_state import state_topic

ENCLAVE = "/nac_ros/{}"
GUARD_SERVICES = ("guard/stop", "guard/reset", "guard/ramp")
MONITORED = ("guard/command", "policy/chunk", "diagnostics")
PARAMETERS = (
    "describe_parameters",
    "get_parameter_types",
    "get_parameters",
    "list_parameters",
    "set_parameters",
    "set_parameters_atomically",
    "get_type_description",
)
LIFECYCLE = (
    "change_state",
    "get_available_states",
    "get_available_transitions",
    "get_state",
    "get_transition_graph",
)
RECORDING = tuple(f"recorder/{name}" for name in ("start", "stop", "fail", "discard", "mark"))
POLICY_AND_TWIN = ("policy/start", "policy/stop", "twin/reset")
TRIAL_SERVICES = ("guard/stop", "guard/reset", *POLICY_AND_TWIN, *RECORDING)


@dataclass(frozen=True)
class Access:
    """Rights of a node; names are relative to the namespace, `~` is the node's own.

    publishes, subscribes: topics; offers, calls: services
    """

    publishes: tuple[str, ...] = ()
    subscribes: tuple[str, ...] = ()
    offers: tuple[str, ...] = ()
    calls: tuple[str, ...] = ()
    lifecycle: bool = False


def camera_node(camera: str) -> str:
    """Name of the node of a camera."""
    return f"camera_{camera}"


def node_access(spec: RobotSpec) -> dict[str, Access]:
    """Node -> its rights on `spec`.

    `operator` starts, stops and monitors the other nodes; `driver` is a driver of arm or cameras.
    """
    arm = tuple(group.topic for group in spec.groups)
    images = tuple(t for c in spec.cameras for t in (c.topic, c.compressed_topic))
    joint_states = (spec.joint_states_topic,)
    states = tuple(state_topic(group.topic) for group in spec.groups if group.kind == "jtc")
    cameras = {
        camera_node(camera.name): Access(
            (
                camera.topic,
                camera.compressed_topic,
                camera.sibling_topic("camera_info"),
                camera.sibling_topic("depth/image_raw"),
                "diagnostics",
            ),
            lifecycle=True,
        )
        for camera in spec.cameras
    }
    commands = ("policy/chunk", "teleop/command", "policy/heartbeat", "guard/mode")
    return {
        "guard": Access(
            ("guard/command", "diagnostics", *arm),
            (*joint_states, *states, *commands),
            GUARD_SERVICES,
            lifecycle=True,
        ),
        "policy": Access(
            ("policy/chunk", "policy/heartbeat", "diagnostics"),
            (*joint_states, *images, "task", "guard/command"),
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
            tuple(recorded.topic for recorded in recorded_topics(spec)),
            tuple(name.replace("recorder", "~") for name in RECORDING),
            lifecycle=True,
        ),
        "twin": Access((*joint_states, *images, "~/outcome", "~/set_point"), arm, ("~/reset",)),
        "driver": Access((*joint_states, *states, *images), arm),
        **cameras,
        "trials": _trials_access(images),
        "view": Access((), (*joint_states, *images, *MONITORED)),
        "operator": _operator_access(list(cameras)),
    }


def _operator_access(cameras: Sequence[str]) -> Access:
    managed = ("guard", "policy", "teleop", "recorder")
    transitions = (f"{node}/{name}" for node in (*managed, *cameras) for name in LIFECYCLE)
    configured = (*managed, "twin", "view", *cameras)
    settings = (f"{node}/{name}" for node in configured for name in PARAMETERS)
    triggers = (*GUARD_SERVICES, *POLICY_AND_TWIN, *RECORDING)
    return Access(
        ("guard/mode", "task"),
        (*MONITORED, "twin/outcome"),
        calls=(*triggers, *transitions, *settings),
    )


def _trials_access(images: tuple[str, ...]) -> Access:
    """The operator console starts and stops the nodes as `operator` does."""
    loading = (f"policy/{name}" for name in ("change_state", "get_state"))
    settings = (f"{node}/set_parameters" for node in ("policy", "recorder", "twin"))
    return Access(
        ("guard/mode", "task", "diagnostics"),
        (*images, "diagnostics", "twin/outcome"),
        calls=(*TRIAL_SERVICES, *loading, *settings),
    )


def policy_xml(spec: RobotSpec) -> str:
    """The policy file, version 0.2.0, that `ros2 security create_permission` reads."""
    root = xml.Element("policy", version="0.2.0")
    enclaves = xml.SubElement(root, "enclaves")
    for node, access in node_access(spec).items():
        enclave = xml.SubElement(enclaves, "enclave", path=ENCLAVE.format(node))
        profile = xml.SubElement(xml.SubElement(enclave, "profiles"), "profile", ns="/", node=node)
        events, own = ["rosout", "parameter_events"], list(PARAMETERS)
        if access.lifecycle:
            events.append("~/transition_event")
            own += LIFECYCLE
        _allow(profile, "topic", "publish", (*events, *access.publishes))
        _allow(profile, "topic", "subscribe", ("parameter_events", *access.subscribes))
        _allow(profile, "service", "reply", (*(f"~/{name}" for name in own), *access.offers))
        _allow(profile, "service", "request", access.calls)
    xml.indent(root)
    return f"<?xml version='1.0' encoding='UTF-8'?>\n{xml.tostring(root, encoding='unicode')}\n"


def _allow(profile: xml.Element, kind: str, verb: str, names: Iterable[str]) -> None:
    if names:
        group = xml.SubElement(profile, f"{kind}s", {verb: "ALLOW"})
        for name in names:
            xml.SubElement(group, kind).text = name


def main() -> int:
    """Prints the policy of a robot, by default vx300s; returns 2 if it does not exist."""
    try:
        sys.stdout.write(policy_xml(load_robot(sys.argv[1] if sys.argv[1:] else "vx300s")))
    except NacError as error:
        print(error, file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
