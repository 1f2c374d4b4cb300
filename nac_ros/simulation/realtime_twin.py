"""The twin on a wall clock: trials of any task, one after the other, recorded as they pass."""

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
from nac_ros.simulation.servo_droop import RIGID, Droop
from nac_ros.simulation.state_log import Recorder
from nac_ros.simulation.twin import Twin, TwinState

Images = Mapping[str, np.ndarray]

MIN_STAMP = 1e-9  # [s] a stamp of 0 would mean on arrival


@dataclass(frozen=True)
class TrialState:
    """How a trial stands: state is running, success, failure or aborted; steps are whole
    control periods; recording is the path of its .npz, '' while there is none."""

    task: str
    seed: int
    trial: int
    state: str
    reason: str
    steps: int
    recording: str = ""


class LiveTwin:
    """Physics follows the time it is told [s]; each task's scene is compiled once.

    epoch: what is added to stamps in recordings [s]; a clock's own epoch is too large a number
        for the time within a trajectory
    droop: how far the arm rests beside its set-points
    Not thread-safe: use it in one thread. It renders nothing, see LiveCameras.
    """

    def __init__(
        self, spec: RobotSpec, recordings: Path | None = None, states_hz: float = 15.0,
        epoch: float = 0.0, droop: Droop = RIGID,
    ):  # fmt: skip
        self.spec, self._epoch, self._droop = spec, epoch, droop
        self._recordings, self._states_period = recordings, 1 / states_hz
        self._twins: dict[str, Twin] = {}
        self._twin: Twin | None = None
        self.trial: TrialState | None = None

    @property
    def twin(self) -> Twin:
        """The twin of the trial that was begun last."""
        assert self._twin is not None, "begin a trial first"
        return self._twin

    @property
    def stamp(self) -> float:
        """The wall-clock time that physics has reached [s]."""
        return self._start + self.twin.now()

    def prepare(self, task: str) -> None:
        """Compiles the scene of `task`; raises UnknownName."""
        if task not in self._twins:
            self._twins[task] = Twin(self.spec, task, render=False, droop=self._droop)

    def begin(
        self,
        task: str,
        seed: int,
        trial: int,
        now: float,
        variation: DomainRandomization = NOMINAL,
    ) -> None:
        """A new trial at `now` [s], after `prepare`; a running one is recorded as aborted."""
        self.abort("reset before the end")
        self._twin = self._twins[task]
        self._twin.variation = variation
        self._twin.reset(scene_seed(task, seed, trial))
        self._start, self._recorder = now, Recorder()
        self._next_state = now
        self.trial = TrialState(task, seed, trial, "running", "", 0)

    def advance(self, now: float) -> bool:
        """Physics up to `now` [s]; True when the trial ended on the way."""
        before, piece = self.trial, 0.5 / self.spec.action_rate_hz
        while self.stamp < now - piece:  # after a pause, so that the end is noted in its period
            self._step(self.stamp + piece)
        self._step(now)
        return self.trial is not before

    def send(self, trajectory: Trajectory, arrival: float) -> bool:
        """Hands over a trajectory that came at `arrival` [s]; raises TrajectoryRejected.

        True when the trial ended before it came.
        """
        ended = self.advance(arrival)
        stamp = trajectory.stamp and max(trajectory.stamp - self._start, MIN_STAMP)
        self.twin.send_trajectory(replace(trajectory, stamp=stamp), arrival - self._start)
        return ended

    def abort(self, why: str) -> None:
        """Ends a trial that still runs."""
        if self.trial is not None and self.trial.state == "running":
            self._end("aborted", why)

    def _step(self, until: float) -> None:
        self.twin.step_until(until - self._start)
        if self.trial is None or self.trial.state != "running":
            return
        self._record()
        outcome = self.twin.outcome()
        if outcome.state != "running":
            self._end(outcome.state, outcome.reason)

    def _record(self) -> None:
        stamp = self.stamp
        if self._recorder.stamps and self._epoch + stamp <= self._recorder.stamps[-1]:
            return
        measured = self.twin.proprio().astype(np.float64)
        self._recorder.sample(self._epoch + stamp, self.twin.command(), measured)
        if stamp >= self._next_state:
            self._recorder.snapshot(self._epoch + stamp, self.twin.state())
            self._next_state += self._states_period

    def _end(self, state: str, reason: str) -> None:
        assert self.trial is not None
        task, seed, trial = self.trial.task, self.trial.seed, self.trial.trial
        steps = int(self.twin.now() * self.spec.action_rate_hz + 1e-6)
        self._recorder.snapshot(self._epoch + self.stamp, self.twin.state())
        path = self._recordings and self._recordings / f"{task}-{seed}-{trial:03d}.npz"
        ended = TrialState(task, seed, trial, state, reason, steps, str(path or ""))
        if path:
            self._recorder.save(path, asdict(ended))
        self.trial = ended


class LiveCameras:
    """Renders snapshots in a thread of its own, so that physics never waits for a picture.

    image_noise: of what is published, standard deviation [grey levels]
    """

    def __init__(
        self,
        spec: RobotSpec,
        publish: Callable[[float, Images], None],
        image_noise: float = IMAGE_NOISE,
    ):
        self._spec, self._publish, self._image_noise = spec, publish, image_noise
        self._thread = ThreadPoolExecutor(1, "cameras")
        self._views: dict[str, Twin] = {}
        self._busy: Future[None] | None = None
        self.dropped = 0

    def prepare(self, task: str) -> None:
        """Opens the cameras on the scene of `task`; raises SimulationError without GL."""
        self._thread.submit(self._open, task).result()

    def thread(self) -> int:
        """Native id of the thread that renders."""
        return self._thread.submit(get_native_id).result()

    def look(self, task: str, stamp: float, state: TwinState) -> None:
        """Publishes what is seen at `stamp` [s]; dropped when the last picture is not done."""
        if self._busy is not None and not self._busy.done():
            self.dropped += 1
            return
        if self._busy is not None:
            self._busy.result()
        self._busy = self._thread.submit(self._render, task, stamp, state)

    def close(self) -> None:
        """Frees the renderers."""
        for view in self._views.values():
            self._thread.submit(view.close)
        self._thread.shutdown()

    def _open(self, task: str) -> None:
        if task not in self._views:
            self._views[task] = Twin(self._spec, task, image_noise=self._image_noise)
            self._views[task].read()

    def _render(self, task: str, stamp: float, state: TwinState) -> None:
        view = self._views[task]
        view.restore(state)
        self._publish(stamp, {name: image for name, (_, image) in view.read().images.items()})
