"""Node `trials`: an operator evaluates blind trials on a page in a browser."""

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
from nac_ros.trials.protocol import TWIN, load_protocol
from nac_ros.trials.run import TrialRun
from nac_ros.trials.scene_reference import MAX_MISMATCH

TICK_S = 0.1


@dataclass(frozen=True, kw_only=True)
class TrialsParameters:
    """Parameters of the node.

    robot: name in config/robots, or path of a robot's YAML
    protocol: path of the protocol, see docs/trials.md
    out: folder of the run; an existing run is resumed
    operator: name of the operator; stored with each verdict and recording
    host: address of the page; on another than this machine it needs a token
    port: of the page; 0 = any free port
    max_unwatched_s: a trial is aborted if no page was open for so long
    max_mismatch: of a scene with its reference image, above which the page warns
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
    """Connects the operator console to the robot and to the trial run."""

    def __init__(self) -> None:
        super().__init__("trials")
        from nac_ros.trials.console.controller import ConsoleController
        from nac_ros.trials.console.server import ConsoleServer  # the web server loads slowly

        self._config = config = parameters.declare(self, TrialsParameters)
        if not config.protocol:
            raise ConfigError("set the parameter `protocol` to the path of a protocol file")
        self._spec, self._protocol = load_robot(config.robot), load_protocol(Path(config.protocol))
        if self._protocol.robot not in (TWIN, self._spec.name):
            raise ConfigError(
                f"the protocol is for robot {self._protocol.robot}, this is {self._spec.name}; "
                f"start with robot:={self._protocol.robot}"
            )
        graph = GraphMonitor(self, self._spec)
        self._robot = RosTrialRobot(self, self._spec, self._protocol, graph)
        self._worker = ThreadPoolExecutor(1, "operator session")
        self._controller = ConsoleController(
            self._open_session, self._robot, config.max_unwatched_s
        )
        self._console = ConsoleServer(self._controller, config.host, config.port)
        self._diagnostics = Diagnostics(self, self._status)
        self._reported: tuple[Any, ...] = ()
        self.create_timer(TICK_S, self._tick, clock=STEADY)
        print(f"operator console: {self._console.address}", flush=True)

    def close(self) -> None:
        """Stops the arm during a trial; the run can be resumed."""
        if self._controller.state().phase == "running":
            self._controller.abort()
        self._console.close()
        self._controller.close()
        self._worker.shutdown(wait=False, cancel_futures=True)

    def _open_session(self) -> OperatorSession:
        config = self._config
        run = TrialRun.create_or_resume(Path(config.out or "runs/trials/arm"), self._protocol)
        try:
            return OperatorSession(
                run,
                self._robot,
                self._worker,
                self._spec.action_rate_hz,
                config.operator,
                config.max_mismatch,
            )
        except BaseException:
            run.close()
            raise

    def _tick(self) -> None:
        self._controller.tick()
        state = self._controller.state()
        reported = (state.phase, state.operation, state.trial_id, state.error)
        if reported != self._reported:
            self._reported = reported
            self._diagnostics.publish()

    def _status(self) -> Status:
        state = self._controller.state()
        values = {
            "phase": state.phase,
            "operation": state.operation,
            "completed": state.n_completed,
            "trials": state.n_trials,
            "task": state.task,
            "trial": state.trial,
            "code": state.code,
            "trial_id": str(state.trial_id),
            "blockers": [blocker.problem for blocker in state.blockers],
            "address": self._console.public_address,
        }
        return Status(WARN if state.error else OK, state.error or state.phase, values)


def main() -> None:
    """Entry point of the executable `trials`."""
    exit_process(run(TrialsNode))


if __name__ == "__main__":
    main()
