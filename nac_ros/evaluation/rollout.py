"""Two runs of `nac eval` on the same scenes, trial by trial."""

import json
import sys
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any, Literal, NamedTuple, get_args

import numpy as np

from nac_ros.control.guard import Guard
from nac_ros.core.errors import ConfigError, UnknownName
from nac_ros.core.types import ActionChunk
from nac_ros.evaluation.baselines import (
    BlackImageBaseline,
    ChunkPredictor,
    MeanDemonstrationBaseline,
    TimedEngine,
    mean_demonstration,
)
from nac_ros.export.bundle import load_bundle
from nac_ros.inference.chunk_transition import CurrentChunk, TransitionConfig
from nac_ros.inference.conditions import Conditions
from nac_ros.inference.engine import Engine
from nac_ros.robot.observation_buffer import ObservationBuffer
from nac_ros.robot.spec import RobotSpec, current_spec_of
from nac_ros.simulation.domain_randomization import load_randomization
from nac_ros.simulation.scene import TIMESTEP
from nac_ros.simulation.seeds import scene_seed
from nac_ros.simulation.tasks import make_task
from nac_ros.simulation.twin import Twin
from nac_ros.stats.intervals import paired_difference, percentiles, wilson


def load_results(path: Path, seed: int, randomization: str) -> dict[str, Any]:
    """The figures of an earlier run; raises ConfigError where they are none or of other scenes."""
    try:
        earlier = json.loads(path.read_text())
        other = earlier["seed"]
        earlier["tasks"].items()
    except (OSError, ValueError, KeyError, AttributeError, TypeError) as error:
        raise ConfigError(
            f"{path} holds no figures of `nac eval --json` ({error}); name such a file"
        ) from error
    if other != seed:
        raise ConfigError(f"{path} has seed {other}, this run {seed}: other scenes")
    looked = earlier.get(
        "randomization", "nominal"
    )  # files from before scenes could vary say nothing
    if looked != randomization:
        raise ConfigError(f"{path} has {looked} scenes, this run {randomization}: other scenes")
    return earlier


def compare_success_rates(
    figures: dict[str, Any], other: dict[str, Any], name: str
) -> dict[str, Any]:
    """Task -> difference of the success rates to those of an earlier run on the same scenes, with
    its paired interval; raises ConfigError where that did not judge a task."""
    rows = {}
    for task in figures["tasks"]:
        ours, theirs = (_outcomes(f["tasks"].get(task)) for f in (figures, other))
        shared = sorted(ours.keys() & theirs.keys())
        if not shared:
            raise ConfigError(
                f"{name} has no trial of {task}, so there is nothing to compare with"
            )
        pair = [[side[trial] for trial in shared] for side in (ours, theirs)]
        gained = float(np.mean(pair[0]) - np.mean(pair[1]))
        bounds = list(paired_difference(*pair))
        rows[task] = {"difference": gained, "difference95": bounds, "trials": len(shared)}
    return rows


def _outcomes(row: dict[str, Any] | None) -> dict[int, bool]:
    return {r["trial"]: r["outcome"] == "success" for r in (row or {}).get("outcomes", [])}


Baseline = Literal["none", "black-images", "mean-demonstration"]


@dataclass(frozen=True, kw_only=True)
class EvaluationConfig(Conditions):
    """What is judged, under which conditions.

    data: datasets of the baseline `mean-demonstration`
    """

    bundle: str
    tasks: tuple[str, ...] = ()
    trials: int = 50
    seed: int = 0
    baseline: Baseline = "none"
    data: tuple[str, ...] = ()
    workers: int = 1

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.trials < 1 or self.workers < 1:
            raise ConfigError(
                f"trials {self.trials} and workers {self.workers} must be at least 1"
            )
        if self.baseline not in get_args(Baseline):
            known = ", ".join(get_args(Baseline))
            raise ConfigError(f"unknown baseline '{self.baseline}'; known are: {known}")
        if self.baseline == "mean-demonstration" and not self.data:
            raise ConfigError("the baseline mean-demonstration needs --data with demonstrations")


class TrialResult(NamedTuple):
    """How one trial ended; times in seconds of wall clock, holds and rejections by reason.

    jumps: largest of the arm's joints at each seam [rad or m]; jerk: root mean square of what was
        commanded, as a share of the limits
    """

    task: str
    trial: int
    outcome: str
    reason: str
    steps: int
    predict_s: list[float]
    decode_s: list[float]
    holds: dict[str, int]
    rejections: dict[str, int]
    clips: int
    transition_jumps: list[float]
    jerk_rms_ratio: float


class Rollout:
    """One twin, one planner, one guard: plays trials of one task.

    randomization: a name in config/randomization or the path of a YAML file
    twin: one of that task to go on with; a new one is compiled by default
    """

    def __init__(
        self, spec: RobotSpec, task: str, planner: ChunkPredictor, latency_s: float,
        randomization: str = "nominal", twin: Twin | None = None,
    ):  # fmt: skip
        self.spec, self.planner, self._latency = spec, planner, latency_s
        seeing = bool(planner.cameras)
        self.twin = twin or Twin(spec, task, seeing, load_randomization(randomization))
        self._aligner = ObservationBuffer(spec, planner.cameras, planner.n_obs_steps)
        self._prompt, self._arm = self.twin.task.prompt, spec.relative_mask
        self.transition_jumps: list[float] = []

    def run_trial(
        self,
        seed: int,
        steps: int | None = None,
        watch: Callable[[Twin], None] = lambda twin: None,
    ) -> Guard:
        """One trial on the scene of `seed`, which the task ends, or `steps` before that; the twin
        holds the outcome afterwards, and is shown to `watch` before each control period."""
        self.reset(seed)
        while self.twin.outcome().state == "running" and self._step != steps:
            watch(self.twin)
            self.step()
        return self._guard

    def reset(self, seed: int) -> None:
        """A new trial on the scene of `seed`, about to take its first step."""
        twin = self.twin
        twin.reset(seed)
        self._aligner.clear()
        self._guard = Guard(self.spec)
        self._guard.update_joint_state(twin.now(), twin.proprio())
        self._guard.update_reference(twin.now(), twin.setpoint())
        self._guard.set_mode("policy")
        self._due: list[ActionChunk] = []
        self._newest: ActionChunk | None = None
        self._step = 0
        self.transition_jumps, self._commanded = [], list[np.ndarray]()

    def step(self) -> None:
        """One control period: observes, plans where a chunk is wanted, moves."""
        self._observe(self._step)
        if self._step % self.planner.n_action_steps == 0:
            observation = self._aligner.get_observation(self.twin.now(), self._prompt)
            until = observation.stamp + self._latency
            underway = None if self._newest is None else CurrentChunk(self._newest, until)
            self._newest = self.planner.predict_chunk(observation, underway)
            self._due.append(self._newest)
        self._step += 1
        self._advance(self._guard, self._due, self._step / self.spec.action_rate_hz)

    def jerk_rms_ratio(self) -> float:
        """Root mean square of the commanded jerk since `reset`, as a share of the limits."""
        rate = self.spec.guard_rate_hz
        jerks = np.diff(self._commanded, 3, axis=0) * rate**3 / self.spec.jerk_limit
        return float(np.sqrt((jerks**2).mean())) if len(jerks) else 0.0

    def _observe(self, step: int) -> None:
        """Cameras are looked through only where a plan will want their images."""
        ahead = -step % self.planner.n_action_steps
        if step and ahead >= self.planner.n_obs_steps:
            return
        reading = self.twin.read()
        self._aligner.add_joint_state(reading.stamp, reading.proprio)
        for camera in self.planner.cameras:
            self._aligner.add_image(camera, *reading.images[camera])

    def _advance(self, guard: Guard, due: list[ActionChunk], until: float) -> None:
        """Guard ticks up to `until` [s]; a planned chunk arrives `latency` after its stamp."""
        twin = self.twin
        while until - twin.now() > TIMESTEP / 2:  # the twin's clock ticks in physics steps
            now = twin.now()
            while due and now >= due[0].stamp + self._latency - 1e-6:
                self._take(guard, due.pop(0), now)
            guard.update_joint_state(now, twin.proprio())
            self._commanded += [tick.positions for tick in guard.tick(now)]
            if (motion := guard.trajectory_update(now)) is not None:
                twin.write(motion)
            twin.step_until(min(now + guard.period, until))

    def _take(self, guard: Guard, chunk: ActionChunk, now: float) -> None:
        moving = not guard.hold_reason
        if guard.accept(chunk, now) is None and moving:
            self.transition_jumps.append(float(np.abs(guard.jump[self._arm]).max()))


def run(config: EvaluationConfig) -> dict[str, Any]:
    """Judges every task and returns the figures of SPEC section 8."""
    tasks = _tasks(config)
    jobs = [(config, task, share) for task in tasks for share in _shares(config)]
    if config.workers == 1:
        results = [result for job in jobs for result in _trials(*job)]
    else:
        with ProcessPoolExecutor(config.workers, get_context("spawn")) as pool:
            results = [r for part in pool.map(_trials, *zip(*jobs)) for r in part]
    return _figures(config, tasks, results)


def _tasks(config: EvaluationConfig) -> tuple[str, ...]:
    known = load_bundle(config.bundle).manifest.tasks
    unknown = [task for task in config.tasks if task not in known]
    if unknown:
        names = ", ".join(known)
        raise UnknownName(f"unknown task '{unknown[0]}'; the bundle learned: {names}")
    return config.tasks or tuple(known)


def _shares(config: EvaluationConfig) -> list[range]:
    return [range(first, config.trials, config.workers) for first in range(config.workers)]


def _trials(config: EvaluationConfig, task: str, trials: Sequence[int]) -> list[TrialResult]:
    import torch

    torch.set_num_threads(1)  # workers share the cores; a batch of one gains little from more
    bundle = load_bundle(config.bundle)
    transition, steps = (
        TransitionConfig(transition=config.transition),
        config.n_action_steps or None,
    )
    engine = Engine(bundle, config.seed, n_action_steps=steps, transition=transition)
    timed = TimedEngine(engine)
    spec = current_spec_of(bundle.robot)
    planner = _planner(config, task, timed, spec)
    rollout = Rollout(spec, task, planner, config.latency_ms / 1000, config.randomization)
    results = []
    for trial in trials:
        timed.timings.clear()
        guard = rollout.run_trial(scene_seed(task, config.seed, trial))
        result = trial_result(rollout, guard, timed, task, trial)
        print(
            f"{task} trial {trial}: {result.outcome} after {result.steps} steps, {result.reason}"
        )
        sys.stdout.flush()
        results.append(result)
    return results


def trial_result(
    rollout: Rollout, guard: Guard, timed: TimedEngine, task: str, trial: int
) -> TrialResult:
    """What is told of a trial that was just played."""
    outcome = rollout.twin.outcome()
    return TrialResult(
        task,
        trial,
        outcome.state,
        outcome.reason,
        int(rollout.twin.now() * rollout.spec.action_rate_hz + 1e-6),
        [timing.predict_s for timing in timed.timings],
        [timing.decode_s for timing in timed.timings],
        dict(guard.holds),
        dict(guard.rejections),
        int(guard.clips.sum()),
        list(rollout.transition_jumps),
        rollout.jerk_rms_ratio(),
    )


def _planner(
    config: EvaluationConfig, task: str, engine: TimedEngine, spec: RobotSpec
) -> ChunkPredictor:
    if config.baseline == "mean-demonstration":
        actions = mean_demonstration(config.data, make_task(task).prompt)
        return MeanDemonstrationBaseline(spec, actions, engine.horizon, engine.n_action_steps)
    return BlackImageBaseline(engine) if config.baseline == "black-images" else engine


def _figures(
    config: EvaluationConfig, tasks: Sequence[str], results: Sequence[TrialResult]
) -> dict[str, Any]:
    plans = [1000 * t for result in results for t in result.predict_s]
    decodes = [1000 * t for result in results for t in result.decode_s]
    holds = sum((Counter(result.holds) for result in results), Counter())
    rejections = sum((Counter(result.rejections) for result in results), Counter())
    return {
        "bundle": config.bundle,
        "seed": config.seed,
        "randomization": config.randomization,
        "baseline": config.baseline,
        "latency_ms": config.latency_ms,
        "transition": config.transition,
        "tasks": {task: _row([r for r in results if r.task == task]) for task in tasks},
        "chunk_ms": percentiles(plans),
        "decode_ms": percentiles(decodes),
        "holds": dict(holds),
        "rejections": dict(rejections),
        "clips": sum(result.clips for result in results),
        "transition_jump": percentiles(
            [jump for result in results for jump in result.transition_jumps]
        ),
        "jerk_rms_ratio": float(np.mean([result.jerk_rms_ratio for result in results])),
    }


def _row(results: Sequence[TrialResult]) -> dict[str, Any]:
    ordered = sorted(results, key=lambda result: result.trial)
    successes = sum(result.outcome == "success" for result in ordered)
    low, high = wilson(successes, len(ordered))
    return {
        "trials": len(ordered),
        "successes": successes,
        "wilson95": [low, high],
        "outcomes": [
            {"trial": r.trial, "outcome": r.outcome, "reason": r.reason, "steps": r.steps}
            for r in ordered
        ],
    }
