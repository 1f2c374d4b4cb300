"""The processes of the system and their parameters, for launch files and for `ProcessGroup`.

Each `*_graph` function returns nodes in the order in which they are started; an argument '' keeps
the default of the node.
"""

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

TWIN = "twin"  # as a robot's name: the simulated arm
ONE_THREAD = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}


@dataclass(frozen=True, kw_only=True)
class NodeProcess:
    """One node in a process of its own.

    name: of the node
    parameters: those that differ from config/nodes/<executable>.yaml
    lifecycle: whether it has to be configured and activated
    environment: variables of the process in addition to the inherited ones
    remaps: topic -> its new name
    setup_code: Python code that the process runs before the node
    respawn: whether launch restarts it when it ends
    node_type: executable, if several nodes run the same; its module is nac_ros.nodes.<executable>
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
        """The SROS 2 enclave whose keys it uses."""
        return ENCLAVE.format(self.name)

    @property
    def defaults(self) -> Path:
        """The parameter file that comes with the package."""
        return _default_file(self.executable)

    @property
    def all_parameters(self) -> dict[str, Any]:
        """The parameters, with those of the default file if that is written for another name."""
        if self.executable == self.name:
            return self.parameters
        return {**_default_parameters(self.executable), **self.parameters}

    def arguments(self, params_file: Path) -> list[str]:
        """Command line after the interpreter; writes the parameters to `params_file`."""
        text = yaml.safe_dump({f"/**/{self.name}": {"ros__parameters": self.all_parameters}})
        params_file.write_text(text if self.all_parameters else "/**: {ros__parameters: {}}\n")
        files = (self.defaults, params_file)
        given = [part for file in files for part in ("--params-file", str(file))]
        given += [part for old, new in self.remaps.items() for part in ("-r", f"{old}:={new}")]
        given += ["-r", f"__node:={self.name}"] if self.node_type else []
        start = ["-m", self.module]
        if self.setup_code:
            run_module = f"import runpy; runpy.run_module({self.module!r}, run_name='__main__')"
            start = ["-c", f"{self.setup_code}\n{run_module}"]
        return [*start, "--ros-args", "--enclave", self.enclave, *given]


def policy_graph(
    bundle: str = "", robot: str = "", call_log: str = "", **policy: Any
) -> tuple[NodeProcess, ...]:
    """Guard and policy."""
    common = _given(robot=robot, call_log=call_log)
    guard = NodeProcess(name="guard", parameters=common)
    return guard, _image_node("policy", {**common, **_given(bundle=bundle), **policy})


def policy_stack(robot: str = "", **policy: Any) -> tuple[NodeProcess, ...]:
    """Guard and policy; with robot `twin` also the simulated arm that they drive."""
    if robot != TWIN:
        return policy_graph(robot=robot, **policy)
    task = {"task": policy["task"]} if "task" in policy else {}
    return (*twin_graph(**task), *policy_graph(**policy))


def twin_graph(robot: str = "", **twin: Any) -> tuple[NodeProcess, ...]:
    """The simulated arm."""
    node = _image_node("twin", {**_given(robot=robot), **twin}, lifecycle=False)
    node.environment["LP_NUM_THREADS"] = "1"
    return (node,)


def recorder_graph(robot: str = "", **recorder: Any) -> tuple[NodeProcess, ...]:
    """The episode recorder."""
    return (_image_node("recorder", {**_given(robot=robot), **recorder}),)


def record_graph(
    robot: str = "", mapping: str = "", source: str = "", task: str = "", **recorder: Any
) -> tuple[NodeProcess, ...]:
    """Demonstrations by teleoperation: cameras or twin, guard, teleop and recorder.

    source: of every camera's images; mapping: of the input device
    """
    described = "" if robot == TWIN else robot
    tasks = _given(task=task)
    guard, _ = policy_graph(robot=described)
    return (
        *_cameras_or_twin(robot, source, **tasks),
        guard,
        *teleop_graph(described, mapping),
        *recorder_graph(described, **tasks, **recorder),
    )


def evaluate_graph(
    robot: str = "",
    protocol: str = "",
    out: str = "",
    source: str = "",
    port: int | str = "",
    **trials: Any,
) -> tuple[NodeProcess, ...]:
    """Trials evaluated by an operator: cameras or twin, guard, policy, recorder and console.

    The console tells the policy which bundle to load. A console that crashed is restarted, and
    sets the guard to hold first. out: folder of the run
    """
    described = "" if robot == TWIN else robot
    folder = Path(out or f"runs/trials/{time.strftime('%Y%m%d-%H%M%S')}").absolute()
    guard, policy = policy_graph(robot=described)
    parameters: dict[str, Any] = {"out": str(folder), **_given(robot=described), **trials}
    if protocol:
        parameters["protocol"] = str(Path(protocol).absolute())
    if port != "":
        parameters["port"] = int(port)
    return (
        *_cameras_or_twin(robot, source),
        guard,
        replace(policy, lifecycle=False),
        *recorder_graph(described, out=str(folder / "recordings")),
        _image_node("trials", parameters, lifecycle=False, respawn=True),
    )


def teleop_graph(robot: str = "", mapping: str = "", **teleop: Any) -> tuple[NodeProcess, ...]:
    """Teleoperation."""
    parameters = {**_given(robot=robot, mapping=mapping), **teleop}
    return (NodeProcess(name="teleop", parameters=parameters),)


def view_graph(robot: str = "", **view: Any) -> tuple[NodeProcess, ...]:
    """The live view."""
    return (_image_node("view", {**_given(robot=robot), **view}, lifecycle=False),)


def camera_graph(camera: str, robot: str = "", **parameters: Any) -> tuple[NodeProcess, ...]:
    """One camera, as the node `camera_<name>`."""
    parameters = {"camera": camera, **_given(robot=robot), **parameters}
    return (_image_node(camera_node(camera), parameters, node_type="camera"),)


def default_robot(node: str) -> str:
    """The robot that config/nodes gives a node."""
    robot = _default_parameters(node).get("robot")
    if not isinstance(robot, str):
        raise ConfigError(f"{_default_file(node)} names no robot; add `robot: <name>`")
    return robot


def _cameras_or_twin(robot: str, source: str, **twin: Any) -> tuple[NodeProcess, ...]:
    """Every camera of the robot; or the twin, which is the arm too."""
    if robot == TWIN:
        return twin_graph(**twin)
    spec = load_robot(robot or default_robot("recorder"))
    given = _given(source=source)
    return tuple(node for c in spec.cameras for node in camera_graph(c.name, robot, **given))


def _given(**values: str) -> dict[str, str]:
    return {key: value for key, value in values.items() if value}


def _image_node(name: str, parameters: dict[str, Any], **more: Any) -> NodeProcess:
    """A node that sends or receives images."""
    environment = {**ONE_THREAD, **image_transport.environment()}
    return NodeProcess(name=name, parameters=parameters, environment=environment, **more)


def _default_file(node: str) -> Path:
    return config_dir() / "nodes" / f"{node}.yaml"


def _default_parameters(node: str) -> dict[str, Any]:
    """The parameters of config/nodes/<node>.yaml; raises ConfigError if it is no such file."""
    path = _default_file(node)
    content = load_yaml(path).get(f"/**/{node}")
    values = content.get("ros__parameters") if isinstance(content, dict) else None
    if not isinstance(values, dict):
        raise ConfigError(f"{path} has no mapping `ros__parameters` below `/**/{node}`; add it")
    return values
