"""Which processes make up the system and what they are told: written once, for launch files and
for starting the same graph without launch tools."""

import time
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import yaml

from nac_ros.core.config import config_dir, load_yaml
from nac_ros.core.errors import ConfigError
from nac_ros.robot.spec import load_robot
from nac_ros.ros import image_transport
from nac_ros.ros.security_policy import ENCLAVE, camera_node

STARTER = "NAC_ROS_STARTER"  # process id of a starter without which a node has no business
TWIN = "twin"  # as a robot's name: the simulated arm
ONE_THREAD = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}


@dataclass(frozen=True, kw_only=True)
class NodeProcess:
    """One node in a process of its own.

    name: of the node
    parameters: what differs from config/nodes/<executable>.yaml
    lifecycle: whether it has to be configured and activated
    environment: variables of the process, beside the inherited ones
    remaps: topic -> the name it gets
    before: Python that the process runs before the node
    respawn: whether launch starts it again when it ends
    kind: executable, where several nodes run the same; nac_ros.nodes.<executable> is its module
    """

    name: str
    parameters: dict[str, Any] = field(default_factory=dict)
    lifecycle: bool = True
    environment: dict[str, str] = field(default_factory=lambda: dict(ONE_THREAD))
    remaps: dict[str, str] = field(default_factory=dict)
    setup_code: str = ""
    respawn: bool = False
    node_type: str = ""

    @property
    def executable(self) -> str:
        return self.node_type or self.name

    @property
    def module(self) -> str:
        return f"nac_ros.nodes.{self.executable}"

    @property
    def enclave(self) -> str:
        """Whose keys it uses where SROS 2 is on."""
        return ENCLAVE.format(self.name)

    @property
    def defaults(self) -> Path:
        """The ROS parameter file that comes with the package."""
        return _defaults(self.executable)

    @property
    def all_parameters(self) -> dict[str, Any]:
        """The parameters, with the file's where that is written for a node of another name."""
        if self.executable == self.name:
            return self.parameters
        return {**_shipped(self.executable), **self.parameters}

    def arguments(self, params_file: Path) -> list[str]:
        """Command line after the interpreter; `params_file` is written with the parameters."""
        text = yaml.safe_dump({f"/**/{self.name}": {"ros__parameters": self.all_parameters}})
        params_file.write_text(text if self.all_parameters else "/**: {ros__parameters: {}}\n")
        files = (self.defaults, params_file)
        given = [part for file in files for part in ("--params-file", str(file))]
        given += [part for old, new in self.remaps.items() for part in ("-r", f"{old}:={new}")]
        given += ["-r", f"__node:={self.name}"] if self.node_type else []
        start = ["-m", self.module]
        if self.setup_code:
            again = f"import runpy; runpy.run_module({self.module!r}, run_name='__main__')"
            start = ["-c", f"{self.setup_code}\n{again}"]
        return [*start, "--ros-args", "--enclave", self.enclave, *given]


def policy_graph(
    bundle: str = "", robot: str = "", call_log: str = "", **policy: Any
) -> tuple[NodeProcess, ...]:
    """Guard and policy, in the order in which they are started; '' keeps a node's own default."""
    both = {key: value for key, value in (("robot", robot), ("call_log", call_log)) if value}
    bundle_given = {"bundle": bundle} if bundle else {}
    seeing = {**ONE_THREAD, **image_transport.environment()}
    return (
        NodeProcess(name="guard", parameters=both),
        NodeProcess(
            name="policy", parameters={**both, **bundle_given, **policy}, environment=seeing
        ),
    )


def policy_stack(robot: str = "", **policy: Any) -> tuple[NodeProcess, ...]:
    """Guard and policy; with robot `twin` also the simulated arm that they then drive."""
    if robot != TWIN:
        return policy_graph(robot=robot, **policy)
    task = {"task": policy["task"]} if "task" in policy else {}
    return (*twin_graph(**task), *policy_graph(**policy))


def twin_graph(robot: str = "", **twin: Any) -> tuple[NodeProcess, ...]:
    """The simulated arm."""
    robot_given = {"robot": robot} if robot else {}
    one = {**ONE_THREAD, "LP_NUM_THREADS": "1", **image_transport.environment()}
    return (
        NodeProcess(
            name="twin", parameters={**robot_given, **twin}, lifecycle=False, environment=one
        ),
    )


def recorder_graph(robot: str = "", **recorder: Any) -> tuple[NodeProcess, ...]:
    """Whoever writes episodes."""
    parameters = {**({"robot": robot} if robot else {}), **recorder}
    seeing = {**ONE_THREAD, **image_transport.environment()}
    return (NodeProcess(name="recorder", parameters=parameters, environment=seeing),)


def default_robot(node: str) -> str:
    """The robot that config/nodes gives a node."""
    robot = _shipped(node).get("robot")
    if not isinstance(robot, str):
        raise ConfigError(f"{_defaults(node)} names no robot; add `robot: <name>`")
    return robot


def _defaults(node: str) -> Path:
    return config_dir() / "nodes" / f"{node}.yaml"


def _shipped(node: str) -> dict[str, Any]:
    """What config/nodes gives a node; raises ConfigError where that is no parameter file."""
    path = _defaults(node)
    content = load_yaml(path).get(f"/**/{node}")
    values = content.get("ros__parameters") if isinstance(content, dict) else None
    if not isinstance(values, dict):
        raise ConfigError(f"{path} has no mapping `ros__parameters` below `/**/{node}`; add it")
    return values


def record_graph(
    robot: str = "", mapping: str = "", source: str = "", task: str = "", **recorder: Any
) -> tuple[NodeProcess, ...]:
    """Demonstrating by hand: cameras, or the twin in their and the arm's place, guard, teleop and
    recorder.

    source: of every camera's pictures; mapping: of the hand's device; '' = the nodes' own defaults
    """
    described = "" if robot == TWIN else robot
    known = {"task": task} if task else {}
    seen = _seen(robot, source, **known)
    guard, _ = policy_graph(robot=described)
    hand = teleop_graph(described, mapping)
    return (*seen, guard, *hand, *recorder_graph(described, **known, **recorder))


def evaluate_graph(
    robot: str = "", protocol: str = "", out: str = "", source: str = "", port: int | str = "",
    **trials: Any,
) -> tuple[NodeProcess, ...]:  # fmt: skip
    """Trials judged by a person: cameras, or the twin, guard, policy, recorder and the console.

    The policy waits for the console, which tells it what to load. A console that crashed comes
    again, and lets the arm hold first of all. out: folder of the run
    """
    described = "" if robot == TWIN else robot
    folder = Path(out or f"runs/trials/{time.strftime('%Y%m%d-%H%M%S')}").absolute()
    episodes: dict[str, Any] = {"out": str(folder / "recordings")}
    guard, policy = policy_graph(robot=described)
    told = {"out": str(folder), **({"robot": described} if described else {}), **trials}
    told |= {"protocol": str(Path(protocol).absolute())} if protocol else {}
    told |= {"port": int(port)} if port != "" else {}
    seeing = {**ONE_THREAD, **image_transport.environment()}
    return (
        *_seen(robot, source),
        guard,
        replace(policy, lifecycle=False),
        *recorder_graph(described, **episodes),
        NodeProcess(
            name="trials", parameters=told, lifecycle=False, environment=seeing, respawn=True
        ),
    )


def _seen(robot: str, source: str, **twin: Any) -> tuple[NodeProcess, ...]:
    """What shows the arm: every camera of the robot, or the twin, which is the arm too."""
    if robot == TWIN:
        return twin_graph(**twin)
    spec = load_robot(robot or default_robot("recorder"))
    chosen = {"source": source} if source else {}
    return tuple(node for c in spec.cameras for node in camera_graph(c.name, robot, **chosen))


def teleop_graph(robot: str = "", mapping: str = "", **teleop: Any) -> tuple[NodeProcess, ...]:
    """A hand's node; '' keeps its own default."""
    given = {key: value for key, value in (("robot", robot), ("mapping", mapping)) if value}
    return (NodeProcess(name="teleop", parameters={**given, **teleop}),)


def view_graph(robot: str = "", **view: Any) -> tuple[NodeProcess, ...]:
    """The live view, which only listens."""
    parameters = {**({"robot": robot} if robot else {}), **view}
    seeing = {**ONE_THREAD, **image_transport.environment()}
    return (NodeProcess(name="view", parameters=parameters, lifecycle=False, environment=seeing),)


def camera_graph(camera: str, robot: str = "", **parameters: Any) -> tuple[NodeProcess, ...]:
    """One camera, as the node `camera_<name>`; several are as many graphs."""
    robot_given = {"robot": robot} if robot else {}
    return (
        NodeProcess(
            name=camera_node(camera),
            node_type="camera",
            parameters={"camera": camera, **robot_given, **parameters},
            environment={**ONE_THREAD, **image_transport.environment()},
        ),
    )
