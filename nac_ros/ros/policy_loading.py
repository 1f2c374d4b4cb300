"""Parameters of the policy node, and the inference engine built from them."""

from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

from nac_ros.control.call_log import CallLog
from nac_ros.control.logged_guard import KEEP_S, call_log_folder
from nac_ros.core import config as configs
from nac_ros.core.config import config_dir, number_field
from nac_ros.core.device import ComputeDevice, DeviceConfig, resolve_device
from nac_ros.core.files import sha256
from nac_ros.core.provenance import environment
from nac_ros.export.manifest import MANIFEST
from nac_ros.inference.chunk_transition import TransitionConfig
from nac_ros.inference.engine import Engine
from nac_ros.inference.load_runtime import load_runtime
from nac_ros.inference.policy_runtime import RuntimeConfig
from nac_ros.inference.uncertainty import LowConfidenceConfig
from nac_ros.robot.spec import RobotSpec, current_spec_of, load_robot

LOAD_PARAMETERS = (
    "bundle",
    "runtime",
    "device",
    "precision",
    "onnx_providers",
    "transition",
    "n_action_steps",
)  # can be set before configuring


@dataclass(frozen=True, kw_only=True)
class PolicyParameters(LowConfidenceConfig, DeviceConfig, RuntimeConfig):
    """Parameters of the node; times in seconds.

    bundle: folder of the bundle; empty = models/default of this package
    robot: name in config/robots, or path of a robot's YAML; empty = the robot of the bundle
    task: prompt or task id at the start; the topic `task` changes it
    seed: of the token sampling
    margin_s: the next chunk is due this long before the executed steps run out
    retry_s: waiting time after a missing or unusable observation
    max_stall_s: the heartbeat stops if the inference loop has not run for longer
    transition: how a chunk continues the one being executed: blend, best-of-n or constrained
    n_action_steps: executed steps of each chunk; 0 = the default of the bundle
    call_log: folder of the call log; `auto` = a new one below ROS_HOME, `none` = no call log
    """

    bundle: str = ""
    robot: str = ""
    task: str = ""
    seed: int = number_field(0, 0, 2**31)
    margin_s: float = number_field(0.03, 0.0, 1.0)
    retry_s: float = number_field(0.02, 0.001, 10.0)
    max_stall_s: float = number_field(0.5, 0.05, 60.0)
    transition: str = "blend"
    n_action_steps: int = number_field(0, 0, 1000)
    call_log: str = "auto"

    @property
    def folder(self) -> Path:
        """Folder of the bundle."""
        return Path(self.bundle) if self.bundle else config_dir().parent / "models" / "default"


def load_engine(
    parameters: PolicyParameters, report: Callable[[str], None]
) -> tuple[Engine, RobotSpec]:
    """The engine, warmed up and with its call log, and the robot; raises NacError.

    report: called with what was chosen where a parameter is `auto`, and why
    """
    device = resolve_device(parameters, report)
    transition = configs.build(TransitionConfig, {"transition": parameters.transition}, "policy")
    policy = load_runtime(parameters.folder, parameters, transition.needs_context, device)
    if policy.notice:
        report(policy.notice)
    spec = load_robot(parameters.robot) if parameters.robot else current_spec_of(policy.robot)
    policy.check_robot(spec)
    if parameters.task:
        policy.task_index(parameters.task)
    engine = Engine(policy, parameters.seed, parameters.n_action_steps or None, transition)
    engine.warm_up()
    engine.call_log = _open_call_log(parameters, transition, policy.name, device)
    return engine, spec


def _open_call_log(
    parameters: PolicyParameters,
    transition: TransitionConfig,
    runtime: str,
    device: ComputeDevice,
) -> CallLog | None:
    folder, path = call_log_folder(parameters.call_log), parameters.folder.resolve()
    if folder is None:
        return None
    header = {
        "bundle": str(path),
        "manifest": sha256(path / MANIFEST),
        **environment(),
        "device": device.name,
        "precision": device.precision,
        "transition": asdict(transition),
        "seed": parameters.seed,
        "runtime": runtime,
        "threads": parameters.threads,
        "n_action_steps": parameters.n_action_steps or None,
    }
    return CallLog(folder, "policy", header, KEEP_S)
