"""The twin on the wall clock: trials of any task one after the other, and its camera thread."""

from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from threading import get_native_id

import numpy as np

from nac_ros.core.types import Trajectory
from nac_ros.robot.spec import RobotSpec
from nac_ros.simulation.domain_randomization import NOMINAL, DomainRandomization
from nac_ros.simulation.image_noise import IMAGE_NOISE
from nac_ros.simulation.seeds import scene_seed
from nac_ros.simulation.servo_droop import RIGID, ServoDroop
from nac_ros.simulation.state_log import StateLog
from nac_ros.simulation.twin import Twin, TwinState

Images = Mapping[str, np.ndarray]

MIN_STAMP = 1e-9  # [s]; a controller reads a stamp of 0 as "on arrival"


@dataclass(frozen=True)
class TrialState:
    """State of a trial: running, success, failure or aborted.

    steps: whole control periods since its start
    state_log: path of its .npz file, '' while there is none
    """

    task: str
    seed: int
    trial: int
    state: str
    reason: str
    steps: int
    state_log: str = ""


class RealtimeTwin:
    """Runs physics up to times given by the caller [s]; each task's scene is compiled once.

    log_folder: where the state log of each trial is written; None writes none
    states_hz: rate of the snapshots in it
    epoch: added to the stamps in state logs [s]; a clock that starts near 0 keeps the resolution
        of times within a trajectory
    droop: distance of the arm at rest from its set-points

    Not thread-safe: use it in one thread. It renders nothing, see CameraThread.
    """

    def __init__(
        self,
        spec: RobotSpec,
        log_folder: Path | None = None,
        states_hz: float = 15.0,
        epoch: float = 0.0,
        droop: ServoDroop = RIGID,
    ):
        self.spec, self._epoch, self._droop = spec, epoch, droop
        self._log_folder, self._states_period = log_folder, 1 / states_hz
        self._twins: dict[str, Twin] = {}
        self._twin: Twin | None = None
        self.trial: TrialState | None = None

    @property
    def twin(self) -> Twin:
        """The twin of the latest trial."""
        assert self._twin is not None, "start a trial first"
        return self._twin

    @property
    def stamp(self) -> float:
        """Wall-clock time that physics has reached [s]."""
        return self._start + self.twin.now()

    def prepare(self, task: str) -> None:
        """Compiles the scene of `task`; raises UnknownName."""
        if task not in self._twins:
            self._twins[task] = Twin(self.spec, task, render=False, droop=self._droop)

    def start_trial(
        self,
        task: str,
        seed: int,
        trial: int,
        now: float,
        randomization: DomainRandomization = NOMINAL,
    ) -> None:
        """Starts a trial of a prepared task at `now` [s]; a running one is logged as aborted."""
        self.abort("reset before the end")
        self._twin = self._twins[task]
        self._twin.randomization = randomization
        self._twin.reset(scene_seed(task, seed, trial))
        self._start, self._log = now, StateLog()
        self._next_state = now
        self.trial = TrialState(task, seed, trial, "running", "", 0)

    def advance(self, now: float) -> bool:
        """Runs physics up to `now` [s]; True if the trial ended in that time."""
        before, half_period = self.trial, 0.5 / self.spec.action_rate_hz
        # After a pause of the caller, short steps note the end of a trial in its control period.
        while self.stamp < now - half_period:
            self._step(self.stamp + half_period)
        self._step(now)
        return self.trial is not before

    def send_trajectory(self, trajectory: Trajectory, arrival: float) -> bool:
        """Sends a trajectory received at `arrival` [s]; True if the trial ended before that.

        Raises TrajectoryRejected.
        """
        ended = self.advance(arrival)
        stamp = trajectory.stamp and max(trajectory.stamp - self._start, MIN_STAMP)
        self.twin.send_trajectory(replace(trajectory, stamp=stamp), arrival - self._start)
        return ended

    def abort(self, reason: str) -> None:
        """Ends a trial that is running."""
        if self.trial is not None and self.trial.state == "running":
            self._end("aborted", reason)

    def _step(self, until: float) -> None:
        self.twin.step_until(until - self._start)
        if self.trial is None or self.trial.state != "running":
            return
        self._log_sample()
        outcome = self.twin.outcome()
        if outcome.state != "running":
            self._end(outcome.state, outcome.reason)

    def _log_sample(self) -> None:
        stamp = self._epoch + self.stamp
        if self._log.stamps and stamp <= self._log.stamps[-1]:
            return
        self._log.add_sample(stamp, self.twin.setpoint(), self.twin.proprio().astype(np.float64))
        if self.stamp >= self._next_state:
            self._log.add_state(stamp, self.twin.snapshot())
            self._next_state += self._states_period

    def _end(self, state: str, reason: str) -> None:
        trial = self.trial
        assert trial is not None
        steps = int(self.twin.now() * self.spec.action_rate_hz + 1e-6)
        self._log.add_state(self._epoch + self.stamp, self.twin.snapshot())
        name = f"{trial.task}-{trial.seed}-{trial.trial:03d}.npz"
        path = str(self._log_folder / name) if self._log_folder else ""
        ended = replace(trial, state=state, reason=reason, steps=steps, state_log=path)
        if path:
            self._log.trial = asdict(ended)
            self._log.save(Path(path))
        self.trial = ended


class CameraThread:
    """Renders snapshots in its own thread, so that physics never waits for an image.

    publish: called in that thread with a stamp [s] and the images, camera -> uint8 `[H, W, 3]`
    image_noise: standard deviation of the noise in these images [grey levels]
    """

    def __init__(
        self,
        spec: RobotSpec,
        publish: Callable[[float, Images], None],
        image_noise: float = IMAGE_NOISE,
    ):
        self._spec, self._publish, self._image_noise = spec, publish, image_noise
        self._thread = ThreadPoolExecutor(1, "cameras")
        self._twins: dict[str, Twin] = {}
        self._rendering: Future[None] | None = None
        self.n_dropped = 0

    def prepare(self, task: str) -> None:
        """Opens renderers for the scene of `task`; raises SimulationError without GL."""
        self._thread.submit(self._open, task).result()

    def thread_id(self) -> int:
        """Native id of the rendering thread."""
        return self._thread.submit(get_native_id).result()

    def render(self, task: str, stamp: float, state: TwinState) -> None:
        """Renders and publishes `state`, or drops it while the last one is being rendered."""
        if self._rendering is not None:
            if not self._rendering.done():
                self.n_dropped += 1
                return
            self._rendering.result()
        self._rendering = self._thread.submit(self._render, task, stamp, state)

    def close(self) -> None:
        """Frees the renderers."""
        for twin in self._twins.values():
            self._thread.submit(twin.close)
        self._thread.shutdown()

    def _open(self, task: str) -> None:
        if task not in self._twins:
            self._twins[task] = Twin(self._spec, task, image_noise=self._image_noise)
            self._twins[task].read()

    def _render(self, task: str, stamp: float, state: TwinState) -> None:
        twin = self._twins[task]
        twin.restore(state)
        self._publish(stamp, {name: image for name, (_, image) in twin.read().images.items()})
