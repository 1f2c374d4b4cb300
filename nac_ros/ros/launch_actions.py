"""Turns a node graph into launch actions; needs the `launch` package of ROS 2."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from launch import LaunchDescription
from launch.actions import DeclareLaunchArgument, EmitEvent, OpaqueFunction, RegisterEventHandler
from launch.events import matches_action
from launch.launch_context import LaunchContext
from launch_ros.actions import LifecycleNode, Node
from launch_ros.event_handlers import OnStateTransition
from launch_ros.events.lifecycle import ChangeState
from lifecycle_msgs.msg import Transition

from nac_ros.core.errors import ConfigError
from nac_ros.ros.node_graph import NodeProcess

Arguments = Mapping[str, tuple[str, str]]  # name -> (default, description)
BOOL = ("true", "false")
RESPAWN_S = 2.0
LEVELS = ("debug", "info", "warn", "error", "fatal")

COMMON: Arguments = {
    "params_file": ("", "ROS parameter file, read after config/nodes of the package"),
    "namespace": ("", "namespace of all nodes and of their topics"),
    "use_sim_time": ("false", "whether time is read from the topic /clock"),
    "log_level": ("info", "lowest severity that is logged"),
    "autostart": ("true", "whether lifecycle nodes are configured and activated at start"),
}
CHOICES = {"use_sim_time": BOOL, "autostart": BOOL, "log_level": LEVELS}


def describe(
    graph: Callable[..., Sequence[NodeProcess]], arguments: Arguments
) -> LaunchDescription:
    """Launches the processes of `graph(**arguments)`; adds the COMMON arguments.

    arguments: those of the launch file that are passed to `graph`, unless empty
    """

    def start(context: LaunchContext) -> list:
        values = context.launch_configurations
        given = {name: values[name] for name in arguments if values[name]}
        common = {name: values[name] for name in COMMON}
        if common["params_file"] and not Path(common["params_file"]).is_file():
            raise ConfigError(f"there is no params_file at {common['params_file']}")
        return [action for process in graph(**given) for action in actions(process, common)]

    declared = [
        DeclareLaunchArgument(
            name, default_value=default, description=text, choices=CHOICES.get(name)
        )
        for name, (default, text) in {**arguments, **COMMON}.items()
    ]
    return LaunchDescription([*declared, OpaqueFunction(function=start)])


def actions(process: NodeProcess, common: Mapping[str, str]) -> list:
    """Starts a process; with `autostart` also configures and activates a lifecycle node."""
    arguments = _node_arguments(process, common)
    if not process.lifecycle:
        return [Node(**arguments)]
    node = LifecycleNode(**arguments)
    if common["autostart"] != "true":
        return [node]
    activate = OnStateTransition(
        target_lifecycle_node=node,
        start_state="configuring",
        goal_state="inactive",
        entities=[_change_state(node, Transition.TRANSITION_ACTIVATE)],
    )
    configure = _change_state(node, Transition.TRANSITION_CONFIGURE)
    return [RegisterEventHandler(activate), node, configure]


def _node_arguments(process: NodeProcess, common: Mapping[str, str]) -> dict[str, Any]:
    defaults = [] if process.node_type else [str(process.defaults)]  # written for another name
    files = defaults + ([common["params_file"]] if common["params_file"] else [])
    ros_arguments = f"--log-level {common['log_level']} --enclave {process.enclave}"
    sim_time = {"use_sim_time": common["use_sim_time"] == "true"}
    return {
        "package": "nac_ros",
        "executable": process.executable,
        "name": process.name,
        "namespace": common["namespace"],
        "parameters": [*files, {**process.all_parameters, **sim_time}],
        "additional_env": process.environment,
        "arguments": ["--ros-args", *ros_arguments.split()],
        "output": "screen",
        "respawn": process.respawn,
        "respawn_delay": RESPAWN_S,
    }


def _change_state(node: LifecycleNode, transition: int) -> EmitEvent:
    matcher = matches_action(node)
    return EmitEvent(event=ChangeState(lifecycle_node_matcher=matcher, transition_id=transition))
