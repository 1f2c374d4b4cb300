"""Evaluation of a bundle in the twin: policy, guard and controller in one process."""

import json
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any, Literal, NamedTuple, get_args

import numpy as np

from nac_ros.control.guard import Guard
from nac_ros.control.types import Setpoint
from nac_ros.core.config import number_field
from nac_ros.core.device import CPU, ComputeDevice
from nac_ros.core.errors import ConfigError, UnknownName
from nac_ros.core.types import ActionChunk
from nac_ros.evaluation.baselines import (
    BlackImageBaseline,
    ChunkPredictor,
    MeanDemonstrationBaseline,
    TimedEngine,
    mean_demonstration,
)
from nac_ros.inference.chunk_transition import CurrentChunk, TransitionConfig
from nac_ros.inference.conditions import Conditions, check_choice
from nac_ros.inference.engine import Engine
from nac_ros.inference.load_runtime import load_runtime
from nac_ros.inference.policy_runtime import PolicyRuntime, RuntimeConfig, RuntimeName
from nac_ros.robot.observation_buffer import ObservationBuffer
from nac_ros.robot.spec import RobotSpec, current_spec_of
from nac_ros.simulation.domain_randomization import load_randomization
from nac_ros.simulation.scene import TIMESTEP
from nac_ros.simulation.seeds import scene_seed
from nac_ros.simulation.tasks import make_task
from nac_ros.simulation.twin import Twin
from nac_ros.stats.intervals import paired_difference, percentiles, wilson

Baseline = Literal["none", "black-images", "mean-demonstration"]


@dataclass(frozen=True, kw_only=True)
class EvaluationConfig(Conditions):
    """bundle: folder; tasks: ids, empty = all of the bundle; trials: per task

    baseline: evaluated instead of the policy, see nac_ros.evaluation.baselines
    data: datasets of the baseline `mean-demonstration`
    workers: processes; runtime: see RuntimeConfig
    """

    bundle: str
    tasks: tuple[str, ...] = ()
    trials: int = number_field(50, 1)
    seed: int = 0
    baseline: Baseline = "none"
    data: tuple[str, ...] = ()
    workers: int = number_field(1, 1)
    runtime: RuntimeName = RuntimeConfig.runtime

    def __post_init__(self) -> None:
        super().__post_init__()
        check_choice("baseline", self.baseline, get_args(Baseline))
        if self.baseline == "mean-demonstration" and not self.data:
            raise ConfigError("the baseline mean-demonstration needs --data with demonstrations")


class TrialResult(NamedTuple):
    """Result of one trial.

    predict_s, decode_s: wall-clock durations of every prediction and of its decoding [s]; the
        latter are 0 if the policy does not decode tokens
    holds, rejections: number by reason; clips: clipped set-point values
    transition_jumps: largest distance over the arm's joints at each chunk transition [rad or m]
    jerk_rms_ratio: root mean square of the commanded jerk as a share of the limits
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
    """Runs trials of one task with a twin, a policy and a guard.

    latency_s: simulated time from an observation to the arrival of its chunk
    randomization: a name in config/randomization or the path of a YAML file
    twin: of that task, to reuse its compiled model
    """

    def __init__(
        self,
        spec: RobotSpec,
        task: str,
        predictor: ChunkPredictor,
        latency_s: float,
        randomization: str = "nominal",
        twin: Twin | None = None,
    ):
        self.spec, self.predictor, self._latency_s = spec, predictor, latency_s
        render = bool(predictor.cameras)
        self.twin = twin or Twin(spec, task, render, load_randomization(randomization))
        self._observations = ObservationBuffer(
            spec, predictor.cameras, predictor.n_obs_steps, predictor.n_past_commands
        )
        self.transition_jumps: list[float] = []

    def run_trial(
        self,
        seed: int,
        steps: int | None = None,
        on_step: Callable[[Twin], None] = lambda twin: None,
    ) -> Guard:
        """Runs a trial on the scene of `seed` until its outcome is decided, at most `steps`
        control periods; returns its guard. The outcome is in `twin`.

        on_step: called before each control period
        """
        self.reset(seed)
        while self.twin.outcome().state == "running" and self._step != steps:
            on_step(self.twin)
            self.step()
        return self._guard

    def reset(self, seed: int) -> None:
        """Starts a new trial on the scene of `seed`."""
        twin = self.twin
        twin.reset(seed)
        self._observations.clear()
        self._guard = Guard(self.spec)
        self._guard.update_joint_state(twin.now(), twin.proprio())
        self._guard.update_reference(twin.now(), twin.setpoint())
        self._guard.set_mode("policy")
        self._pending: list[ActionChunk] = []  # predicted, not yet arrived
        self._latest: ActionChunk | None = None
        self._step = 0
        self.transition_jumps, self._commanded = [], list[np.ndarray]()

    def step(self) -> None:
        """Runs one control period: observe, predict if a chunk is due, move."""
        self._observe()
        if self._step % self.predictor.n_action_steps == 0:
            observation = self._observations.get_observation(
                self.twin.now(), self.twin.task.prompt
            )
            arrival = observation.stamp + self._latency_s
            current = None if self._latest is None else CurrentChunk(self._latest, arrival)
            self._latest = self.predictor.predict_chunk(observation, current)
            self._pending.append(self._latest)
        self._step += 1
        self._advance(self._step / self.spec.action_rate_hz)

    def jerk_rms_ratio(self) -> float:
        """Root mean square of the commanded jerk since `reset`, as a share of the limits."""
        rate = self.spec.guard_rate_hz
        jerks = np.diff(self._commanded, 3, axis=0) * rate**3 / self.spec.jerk_limit
        return float(np.sqrt((jerks**2).mean())) if len(jerks) else 0.0

    def _observe(self) -> None:
        """Adds sensor data, and renders cameras, only for the steps that a prediction will use."""
        steps_ahead = -self._step % self.predictor.n_action_steps
        if self._step and steps_ahead >= self.predictor.n_obs_steps:
            return
        state = self.twin.read()
        self._observations.add_joint_state(state.stamp, state.proprio)
        for camera in self.predictor.cameras:
            self._observations.add_image(camera, *state.images[camera])

    def _advance(self, until: float) -> None:
        """Ticks the guard and steps the twin up to `until` [s]."""
        twin, guard = self.twin, self._guard
        while until - twin.now() > TIMESTEP / 2:  # the twin's clock advances in physics steps
            now = twin.now()
            while self._pending and now >= self._pending[0].stamp + self._latency_s - 1e-6:
                self._accept(self._pending.pop(0), now)
            guard.update_joint_state(now, twin.proprio())
            self._record_commands(guard.tick(now))
            if (trajectory := guard.trajectory_update(now)) is not None:
                twin.write(trajectory)
            twin.step_until(min(now + guard.period, until))

    def _record_commands(self, setpoints: Sequence[Setpoint]) -> None:
        for setpoint in setpoints:
            self._commanded.append(setpoint.positions)
            if self.predictor.n_past_commands:
                self._observations.add_command(setpoint.stamp, setpoint.positions)

    def _accept(self, chunk: ActionChunk, now: float) -> None:
        moving = not self._guard.hold_reason
        if self._guard.accept(chunk, now) is None and moving:
            jump = self._guard.jump[self.spec.relative_mask]
            self.transition_jumps.append(float(np.abs(jump).max()))


def run_evaluation(config: EvaluationConfig, device: ComputeDevice = CPU) -> dict[str, Any]:
    """Evaluates every task with the policy on a device; returns the results that
    `nac eval --json` writes."""
    known = _load_policy(config, device).observation_spec.tasks
    if unknown := [task for task in config.tasks if task not in known]:
        raise UnknownName(f"unknown task '{unknown[0]}'; the bundle learned: {', '.join(known)}")
    tasks = config.tasks or tuple(known)
    shares = [range(first, config.trials, config.workers) for first in range(config.workers)]
    jobs = [(config, device, task, share) for task in tasks for share in shares]
    if config.workers == 1:
        trials = [result for job in jobs for result in _run_trials(*job)]
    else:
        with ProcessPoolExecutor(config.workers, get_context("spawn")) as pool:
            trials = [result for part in pool.map(_run_trials, *zip(*jobs)) for result in part]
    computed = {"device": device.name, "precision": device.precision}
    return {**_summarize(config, tasks, trials), **computed}


def trial_result(
    rollout: Rollout, guard: Guard, engine: TimedEngine, task: str, trial: int
) -> TrialResult:
    """The result of the trial that `rollout` has just run."""
    outcome = rollout.twin.outcome()
    return TrialResult(
        task,
        trial,
        outcome.state,
        outcome.reason,
        int(rollout.twin.now() * rollout.spec.action_rate_hz + 1e-6),
        [timing.predict_s for timing in engine.timings],
        [timing.decode_s for timing in engine.timings],
        dict(guard.holds),
        dict(guard.rejections),
        int(guard.clips.sum()),
        list(rollout.transition_jumps),
        rollout.jerk_rms_ratio(),
    )


def load_results(path: Path, seed: int, randomization: str) -> dict[str, Any]:
    """Results of an earlier evaluation; raises ConfigError unless it used the same scenes."""
    try:
        earlier = json.loads(path.read_text())
        scenes = earlier["seed"], earlier["randomization"]
        earlier["tasks"].items()
    except (OSError, ValueError, KeyError, AttributeError, TypeError) as error:
        raise ConfigError(
            f"{path} holds no results of `nac eval --json` ({error}); name such a file"
        ) from error
    for name, theirs, ours in zip(("seed", "randomization"), scenes, (seed, randomization)):
        if theirs != ours:
            raise ConfigError(
                f"{path} has {name} {theirs}, this run {ours}; a comparison needs the same scenes"
            )
    return earlier


def compare_success_rates(
    results: dict[str, Any], other: dict[str, Any], name: str
) -> dict[str, Any]:
    """Task -> difference of the success rates from those of `other` on the same scenes, with its
    paired interval; raises ConfigError if `other`, the file `name`, lacks a task."""
    rows = {}
    for task in results["tasks"]:
        ours, theirs = (_outcomes(run["tasks"].get(task)) for run in (results, other))
        shared = sorted(ours.keys() & theirs.keys())
        if not shared:
            raise ConfigError(
                f"{name} has no trial of {task}, so there is nothing to compare with"
            )
        pair = [[outcomes[trial] for trial in shared] for outcomes in (ours, theirs)]
        rows[task] = {
            "difference": float(np.mean(pair[0]) - np.mean(pair[1])),
            "difference95": list(paired_difference(*pair)),
            "trials": len(shared),
        }
    return rows


def _outcomes(row: dict[str, Any] | None) -> dict[int, bool]:
    """Trial -> success."""
    return {r["trial"]: r["outcome"] == "success" for r in (row or {}).get("outcomes", [])}


def _load_policy(config: EvaluationConfig, device: ComputeDevice) -> PolicyRuntime:
    """One thread each: workers share the cores, and a batch of one gains little from more."""
    needs_context = TransitionConfig(transition=config.transition).needs_context
    runtime = RuntimeConfig(runtime=config.runtime)
    return load_runtime(config.bundle, runtime, needs_context, device)


def _run_trials(
    config: EvaluationConfig, device: ComputeDevice, task: str, trials: Sequence[int]
) -> list[TrialResult]:
    transition = TransitionConfig(transition=config.transition)
    policy = _load_policy(config, device)
    engine = Engine(policy, config.seed, config.n_action_steps or None, transition)
    black_images = config.baseline == "black-images"
    timed_engine = BlackImageBaseline(engine) if black_images else TimedEngine(engine)
    spec, predictor = current_spec_of(policy.robot), timed_engine
    if config.baseline == "mean-demonstration":
        actions = mean_demonstration(config.data, make_task(task).prompt)
        predictor = MeanDemonstrationBaseline(spec, actions, engine.horizon, engine.n_action_steps)
    rollout = Rollout(spec, task, predictor, config.latency_ms / 1000, config.randomization)
    results = []
    for trial in trials:
        timed_engine.timings.clear()
        guard = rollout.run_trial(scene_seed(task, config.seed, trial))
        result = trial_result(rollout, guard, timed_engine, task, trial)
        print(
            f"{task} trial {trial}: {result.outcome} after {result.steps} steps, {result.reason}",
            flush=True,
        )
        results.append(result)
    return results


def _summarize(
    config: EvaluationConfig, tasks: Sequence[str], trials: Sequence[TrialResult]
) -> dict[str, Any]:
    holds = sum((Counter(trial.holds) for trial in trials), Counter())
    rejections = sum((Counter(trial.rejections) for trial in trials), Counter())
    return {
        "bundle": config.bundle,
        "seed": config.seed,
        "randomization": config.randomization,
        "baseline": config.baseline,
        "latency_ms": config.latency_ms,
        "transition": config.transition,
        "tasks": {task: _task_row([t for t in trials if t.task == task]) for task in tasks},
        "chunk_ms": percentiles([1000 * s for trial in trials for s in trial.predict_s]),
        "decode_ms": percentiles([1000 * s for trial in trials for s in trial.decode_s if s]),
        "holds": dict(holds),
        "rejections": dict(rejections),
        "clips": sum(trial.clips for trial in trials),
        "transition_jump": percentiles([j for trial in trials for j in trial.transition_jumps]),
        "jerk_rms_ratio": float(np.mean([trial.jerk_rms_ratio for trial in trials])),
    }


def _task_row(trials: Sequence[TrialResult]) -> dict[str, Any]:
    ordered = sorted(trials, key=lambda trial: trial.trial)
    successes = sum(trial.outcome == "success" for trial in ordered)
    return {
        "trials": len(ordered),
        "successes": successes,
        "wilson95": list(wilson(successes, len(ordered))),
        "outcomes": [
            {"trial": t.trial, "outcome": t.outcome, "reason": t.reason, "steps": t.steps}
            for t in ordered
        ],
    }
