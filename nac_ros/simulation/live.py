"""The twin on a wall clock: trials of any task, one after the other, recorded as they pass."""

from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from nac_ros.robot import RobotSpec
from nac_ros.simulation.jtc import Trajectory
from nac_ros.simulation.recording import Recorder
from nac_ros.simulation.seeds import scene_seed
from nac_ros.simulation.twin import Twin


@dataclass(frozen=True)
class TrialState:
    """How a trial stands: state is running, success, failure or aborted; steps are control
    periods; recording is the path of its .npz, '' while there is none."""

    task: str
    seed: int
    trial: int
    state: str
    reason: str
    steps: int
    recording: str = ""


class LiveTwin:
    """Physics follows the time it is told [s]; each task's scene is compiled once.

    Not thread-safe, and renderers belong to the thread that made them: use it in one thread.
    """

    def __init__(self, spec: RobotSpec, recordings: Path | None = None, states_hz: float = 15.0):
        self.spec = spec
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
        """Compiles the scene of `task` and opens its cameras; raises UnknownName."""
        if task in self._twins:
            return
        twin = Twin(self.spec, task)
        twin.read()
        self._twins[task] = twin

    def begin(self, task: str, seed: int, trial: int, now: float) -> None:
        """A new trial at `now` [s], after `prepare`; a running one is recorded as aborted."""
        self.abort("reset before the end")
        self._twin = self._twins[task]
        self._twin.reset(scene_seed(task, seed, trial))
        self._start, self._recorder = now, Recorder()
        self._next_state = now
        self.trial = TrialState(task, seed, trial, "running", "", 0)

    def advance(self, now: float) -> bool:
        """Physics up to `now` [s]; True when the trial ended thereby."""
        self.twin.step_until(now - self._start)
        if self.trial is None or self.trial.state != "running":
            return False
        self._record()
        outcome = self.twin.outcome()
        if outcome.state == "running":
            return False
        self._end(outcome.state, outcome.reason)
        return True

    def send(self, trajectory: Trajectory, arrival: float) -> None:
        """Hands over a trajectory that came at `arrival` [s]; raises TrajectoryRejected."""
        self.twin.step_until(arrival - self._start)
        self.twin.send_trajectory(trajectory)

    def abort(self, why: str) -> None:
        """Ends a trial that still runs."""
        if self.trial is not None and self.trial.state == "running":
            self._end("aborted", why)

    def close(self) -> None:
        """Frees all renderers."""
        for twin in self._twins.values():
            twin.close()

    def _record(self) -> None:
        stamp = self.stamp
        measured = self.twin.proprio().astype(np.float64)
        self._recorder.sample(stamp, self.twin.command(), measured)
        if stamp >= self._next_state:
            self._recorder.snapshot(stamp, self.twin.state())
            self._next_state += self._states_period

    def _end(self, state: str, reason: str) -> None:
        assert self.trial is not None
        task, seed, trial = self.trial.task, self.trial.seed, self.trial.trial
        steps = round(self.twin.now() * self.spec.action_rate_hz)
        self._recorder.snapshot(self.stamp, self.twin.state())
        path = self._recordings and self._recordings / f"{task}-{seed}-{trial:03d}.npz"
        ended = TrialState(task, seed, trial, state, reason, steps, str(path or ""))
        if path:
            self._recorder.save(path, asdict(ended))
        self.trial = ended
