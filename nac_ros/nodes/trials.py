"""Node `trials`: a person judges blind trials on an arm, from a page in a browser."""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rclpy.node import Node

from nac_ros.core.config import check_fields, number_field
from nac_ros.core.errors import ConfigError
from nac_ros.robot.spec import load_robot
from nac_ros.ros import parameters
from nac_ros.ros.diagnostics import OK, WARN, Diagnostics, Status
from nac_ros.ros.graph_monitor import GraphMonitor
from nac_ros.ros.node_clock import STEADY
from nac_ros.ros.node_main import exit_process, run
from nac_ros.ros.trial_robot import RosTrialRobot
from nac_ros.trials.operator_session import OperatorSession
from nac_ros.trials.protocol import TWIN, TrialProtocol, load_protocol
from nac_ros.trials.run import TrialRun
from nac_ros.trials.scene_reference import MAX_MISMATCH

TICK_S = 0.1


@dataclass(frozen=True, kw_only=True)
class TrialsParameters:
    """Parameters of the node.

    robot: name in config/robots, or the path of a robot's YAML
    protocol: file that says what is compared, see docs/trials.md
    out: folder of the run; one that is there is gone on with
    operator: who judges; written beside each verdict and recording
    host: address that the page is offered on; beyond this machine it needs a token
    port: of the page; 0 = any that is free
    max_unwatched_s: a trial is aborted once no page has been open for so long
    max_mismatch: of a scene with its reference picture, above which the page warns
    """

    robot: str = "vx300s"
    protocol: str = ""
    out: str = ""
    operator: str = ""
    host: str = "127.0.0.1"
    port: int = number_field(8080, 0, 65535)
    max_unwatched_s: float = number_field(8.0, 3.0, 60.0)
    max_mismatch: float = number_field(MAX_MISMATCH, 0.0, 1.0)

    def __post_init__(self) -> None:
        check_fields(self)


class TrialsNode(Node):
    """Parameters to objects; what happens is the session's, what is shown the console's."""

    def __init__(self) -> None:
        super().__init__("trials")
        from nac_ros.trials.console.controller import ConsoleController
        from nac_ros.trials.console.server import ConsoleServer  # the web server loads slowly

        self._config = config = parameters.declare(self, TrialsParameters)
        if not config.protocol:
            raise ConfigError("say what is compared: parameter `protocol`, the path of a file")
        self._spec, self._protocol = load_robot(config.robot), load_protocol(Path(config.protocol))
        self._check_robot(self._protocol)
        self._seen = GraphMonitor(self, self._spec)
        self._robot = RosTrialRobot(self, self._spec, self._protocol, self._seen)
        self._worker = ThreadPoolExecutor(1, "operator session")
        self._controller = ConsoleController(self._begin, self._robot, config.max_unwatched_s)
        self._console = ConsoleServer(self._controller, config.host, config.port)
        self._diagnostics = Diagnostics(self, self._status)
        self._shown: tuple[Any, ...] = ()
        self._timer = self.create_timer(TICK_S, self._tick, clock=STEADY)
        print(f"operator console: {self._console.address}", flush=True)

    def close(self) -> None:
        """The arm is stopped where a trial runs; the run can be gone on with."""
        if self._controller.state().phase == "running":
            self._controller.abort()
        self._console.close()
        self._controller.close()
        self._worker.shutdown(wait=False, cancel_futures=True)

    def _check_robot(self, protocol: TrialProtocol) -> None:
        if protocol.robot not in (TWIN, self._spec.name):
            raise ConfigError(
                f"the protocol is for robot {protocol.robot}, this is {self._spec.name}; start "
                f"with robot:={protocol.robot}"
            )

    def _begin(self) -> OperatorSession:
        out = Path(self._config.out or "runs/trials/arm")
        run = TrialRun.create_or_resume(out, self._protocol)
        try:
            return OperatorSession(
                run, self._robot, self._worker, self._spec.action_rate_hz, self._config.operator,
                self._config.max_mismatch,
            )  # fmt: skip
        except BaseException:
            run.close()
            raise

    def _tick(self) -> None:
        self._controller.tick()
        state = self._controller.state()
        shown = (state.phase, state.operation, state.trial_id, state.error)
        if shown != self._shown:
            self._shown = shown
            self._diagnostics.publish()

    def _status(self) -> Status:
        state = self._controller.state()
        values = {
            "phase": state.phase, "operation": state.operation, "completed": state.n_completed, "trials": state.n_trials,
            "task": state.task, "trial": state.trial, "code": state.code, "trial_id": str(state.trial_id),
            "blockers": [one.problem for one in state.blockers], "address": self._console.public_address,
        }  # fmt: skip
        return Status(WARN if state.error else OK, state.error or state.phase, values)


def main() -> None:
    """Entry point of the executable `trials`."""
    exit_process(run(TrialsNode))


if __name__ == "__main__":
    main()
