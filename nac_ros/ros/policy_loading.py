"""What the policy node is told, and the engine that comes of it."""

from dataclasses import asdict, dataclass
from pathlib import Path

from nac_ros.control.call_log import CallLog
from nac_ros.control.logged_guard import KEEP_S, call_log_folder
from nac_ros.core import config as configs
from nac_ros.core.config import bounded, config_dir
from nac_ros.core.files import sha256
from nac_ros.core.provenance import environment
from nac_ros.export.bundle import load_bundle
from nac_ros.export.manifest import MANIFEST
from nac_ros.inference.chunk_transition import TransitionConfig
from nac_ros.inference.engine import Engine
from nac_ros.inference.uncertainty import LowConfidenceConfig
from nac_ros.robot.spec import RobotSpec, current_spec_of, load_robot

LOAD_PARAMETERS = ("bundle", "transition", "n_action_steps")  # may be changed while nothing is loaded


@dataclass(frozen=True, kw_only=True)
class PolicyParameters(LowConfidenceConfig):
    """Times in seconds.

    bundle: folder of the bundle; models/default of this package when empty
    robot: name in config/robots, or the path of a robot's YAML; the bundle's own when empty
    task: prompt or task id at the start; the topic `task` changes it
    seed: of the sampling, so that a run can be repeated
    threads: CPU threads of an inference; one leaves the other cores to the guard
    margin_s: how long before the executed steps run out the next chunk is to be ready
    retry_s: how long to wait after an observation that was missing or unusable
    max_stall_s: an inference loop that has not come round for longer is taken for stuck
    transition: how a chunk goes on from the one under way: blend, best or force
    n_action_steps: executed steps of each chunk, 0 = as the bundle says
    call_log: folder of the call log; `auto` = a new one below ROS_HOME, `none` = no call log
    """

    bundle: str = ""
    robot: str = ""
    task: str = ""
    seed: int = bounded(0, 0, 2**31)
    threads: int = bounded(1, 1, 256)
    margin_s: float = bounded(0.03, 0.0, 1.0)
    retry_s: float = bounded(0.02, 0.001, 10.0)
    max_stall_s: float = bounded(0.5, 0.05, 60.0)
    transition: str = "blend"
    n_action_steps: int = bounded(0, 0, 1000)
    call_log: str = "auto"

    @property
    def folder(self) -> Path:
        """The bundle's, whether given or not."""
        return Path(self.bundle) if self.bundle else config_dir().parent / "models" / "default"


def load_engine(parameters: PolicyParameters) -> tuple[Engine, RobotSpec]:
    """The engine, warm, with its tape running, and the robot; raises NacError."""
    bundle = load_bundle(parameters.folder)
    spec = load_robot(parameters.robot) if parameters.robot else current_spec_of(bundle.robot)
    bundle.check_robot(spec)
    if parameters.task:
        bundle.policy.task_index(parameters.task)
    transition = configs.build(TransitionConfig, {"transition": parameters.transition}, "policy")
    steps = parameters.n_action_steps or None
    engine = Engine(bundle, parameters.seed, parameters.threads, steps, transition=transition)
    engine.warm_up()
    engine.call_log = _open_call_log(parameters, transition)
    return engine, spec


def _open_call_log(parameters: PolicyParameters, transition: TransitionConfig) -> CallLog | None:
    folder, path = call_log_folder(parameters.call_log), parameters.folder.resolve()
    if folder is None:
        return None
    facts = {"bundle": str(path), "manifest": sha256(path / MANIFEST), **environment()}
    facts |= {"transition": asdict(transition), "seed": parameters.seed, "threads": parameters.threads}
    steps = parameters.n_action_steps or None
    return CallLog(folder, "policy", {**facts, "n_action_steps": steps}, KEEP_S)
