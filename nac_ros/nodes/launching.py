"""The graph as launch actions; needs ROS 2's `launch`, which only launch files import."""

from pathlib import Path

from launch import LaunchDescription
from launch.actions import DeclareLaunchArgument, EmitEvent, OpaqueFunction, RegisterEventHandler
from launch.events import matches_action
from launch.launch_context import LaunchContext
from launch_ros.actions import LifecycleNode, Node
from launch_ros.event_handlers import OnStateTransition
from launch_ros.events.lifecycle import ChangeState
from lifecycle_msgs.msg import Transition

from nac_ros.nodes.graph import NodeProcess


def describe(graph, arguments: dict[str, tuple[str, str]]) -> LaunchDescription:
    """The processes of `graph(**arguments)`; arguments: name -> (default, description)."""

    def start(context: LaunchContext) -> list:
        given = {name: context.launch_configurations[name] for name in arguments}
        known = {name: value for name, value in given.items() if value}
        return [action for process in graph(**known) for action in actions(process)]

    declared = [
        DeclareLaunchArgument(name, default_value=default, description=text)
        for name, (default, text) in arguments.items()
    ]
    return LaunchDescription([*declared, OpaqueFunction(function=start)])


def actions(process: NodeProcess) -> list:
    """Starts a process and, where it has a lifecycle, configures and activates it."""
    facts = {
        "package": "nac_ros",
        "executable": process.name,
        "name": process.name,
        "namespace": "",
        "parameters": [str(Path(process.defaults)), process.parameters],
        "additional_env": process.environment,
        "output": "screen",
    }
    if not process.lifecycle:
        return [Node(**facts)]
    node = LifecycleNode(**facts)
    activate = OnStateTransition(
        target_lifecycle_node=node,
        start_state="configuring",
        goal_state="inactive",
        entities=[_change(node, Transition.TRANSITION_ACTIVATE)],
    )
    configure = _change(node, Transition.TRANSITION_CONFIGURE)
    return [RegisterEventHandler(activate), node, configure]


def _change(node: LifecycleNode, transition: int) -> EmitEvent:
    matcher = matches_action(node)
    return EmitEvent(event=ChangeState(lifecycle_node_matcher=matcher, transition_id=transition))
