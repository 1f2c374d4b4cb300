"""Trials on the twin without an operator: the success detector decides, experts or bundles act."""

from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np

from nac_ros.core.device import CPU, ComputeDevice
from nac_ros.core.errors import ConfigError, SimulationError
from nac_ros.core.image_codec import encode_jpeg
from nac_ros.evaluation.baselines import TimedEngine
from nac_ros.evaluation.rollout import Rollout, trial_result
from nac_ros.inference.chunk_transition import TransitionConfig
from nac_ros.inference.engine import Engine
from nac_ros.inference.load_runtime import load_runtime
from nac_ros.inference.policy_runtime import PolicyRuntime
from nac_ros.robot.spec import RobotSpec, current_spec_of, load_robot
from nac_ros.simulation.domain_randomization import DomainRandomization
from nac_ros.simulation.expert import expert_setpoints, step_to_setpoint
from nac_ros.simulation.seeds import scene_seed
from nac_ros.simulation.tasks import make_task
from nac_ros.simulation.tasks.base import Outcome
from nac_ros.simulation.twin import Twin, TwinState
from nac_ros.stats.smoothness import sparc
from nac_ros.trials.executors import Executor
from nac_ros.trials.protocol import EXPERT, TWIN, TrialProtocol
from nac_ros.trials.run import Record, TrialRun, Verdict
from nac_ros.trials.schedule import Slot
from nac_ros.trials.trial_log import write_file

ROBOT = "vx300s"  # the robot of the twin
N_IMAGES, IMAGE_SIZE, JPEG_QUALITY = 6, (240, 180), 80  # of a film strip; size in pixels
SNAPSHOT_PERIOD = 5  # control periods between the states from which a film strip is chosen
FILM_STRIPS = "film_strips"  # folder in the run's folder


class TrialJob(NamedTuple):
    """A slot to run; source: a bundle's path or `expert`; randomization: as it was frozen;
    device: of the bundle's policy."""

    protocol: TrialProtocol
    slot: Slot
    source: str
    film_strip: bool
    randomization: DomainRandomization
    device: ComputeDevice


class SimulatedTrial(NamedTuple):
    """Result of a job; film_strip: JPEG with images of the trial side by side, or empty."""

    slot: Slot
    verdict: Verdict
    film_strip: bytes


class RolloutObserver:
    """Called with the twin before each control period; collects tool positions and snapshots."""

    def __init__(self) -> None:
        self.snapshots: list[TwinState] = []
        self._tool_positions: list[np.ndarray] = []

    def __call__(self, twin: Twin) -> None:
        if len(self._tool_positions) % SNAPSHOT_PERIOD == 0:
            self.snapshots.append(twin.snapshot())
        self._tool_positions.append(twin.arm.tool_position().copy())

    def sparc(self, rate_hz: float) -> float | None:
        """Smoothness of the tool's motion; None for fewer than three positions."""
        if len(self._tool_positions) < 3:
            return None
        distances = np.linalg.norm(np.diff(self._tool_positions, axis=0), axis=1)
        return sparc(distances * rate_hz, rate_hz)


def run_unattended(
    run: TrialRun,
    executor: Executor,
    film_strips: bool = True,
    on_record: Callable[[Record], None] = lambda record: None,
    device: ComputeDevice = CPU,
) -> None:
    """Completes and unblinds a run on the twin; calls `on_record` after each verdict.

    Slots with a verdict are skipped. Raises ConfigError for another robot.
    """
    check_unattended(run.protocol)
    for trial in executor.run(run_trial, _jobs(run, film_strips, device)):
        if run.is_pending(trial.slot):  # a worker may have run beyond the stopping rule
            verdict = replace(trial.verdict, film_strip=_save_film_strip(run, trial))
            on_record(run.log_verdict(trial.slot, verdict))
    run.unblind()


def check_unattended(protocol: TrialProtocol) -> None:
    """Raises ConfigError for another robot than the twin, UnknownName for an unknown task."""
    if protocol.robot != TWIN:
        raise ConfigError(
            f"trials on robot {protocol.robot} need an operator: start `ros2 launch nac_ros "
            f"evaluate.launch.py robot:={protocol.robot} protocol:=FILE`, or use --robot twin"
        )
    for task in protocol.tasks:
        make_task(task)


def run_trial(job: TrialJob) -> SimulatedTrial:
    """Runs one trial. The result depends on protocol and slot alone, not on earlier trials."""
    observer, task = RolloutObserver(), job.slot.task
    seed = scene_seed(task, job.protocol.seed, job.slot.trial)
    if job.source == EXPERT:
        twin = _twin(load_robot(ROBOT), task, job.randomization)
        measurements, error = {}, _run_expert(job, twin, seed, observer)
    else:
        policy = _policy(job.source, _transition(job).needs_context, job.device)
        twin = _twin(current_spec_of(policy.robot), task, job.randomization)
        measurements, error = _run_policy(job, policy, twin, seed, observer), ""
    outcome, rate = twin.outcome(), twin.spec.action_rate_hz
    if error or outcome.state == "running":
        outcome = Outcome("failure", error or twin.task.timeout_reason())
    verdict = Verdict(
        outcome=outcome.state,
        reason=outcome.reason,
        steps=_steps(twin),
        seconds=twin.now(),
        sparc=observer.sparc(rate),
        **measurements,
    )
    states = [*observer.snapshots, twin.snapshot()]
    return SimulatedTrial(job.slot, verdict, _film_strip(twin, states) if job.film_strip else b"")


def _run_expert(job: TrialJob, twin: Twin, seed: int, observer: RolloutObserver) -> str:
    """Executes the expert's set-points without policy and guard; the arm holds after the last one.

    Returns an error text if the expert cannot reach an object, otherwise ''.
    """
    twin.reset(seed)
    setpoints = expert_setpoints(twin, np.random.default_rng([seed, 1]))
    setpoint = twin.setpoint()
    while twin.outcome().state == "running" and _steps(twin) < job.protocol.max_steps:
        observer(twin)
        try:
            setpoint = next(setpoints, setpoint)
        except SimulationError as error:
            return str(error)
        step_to_setpoint(twin, setpoint)
    return ""


def _run_policy(
    job: TrialJob, policy: PolicyRuntime, twin: Twin, seed: int, observer: RolloutObserver
) -> dict[str, Any]:
    """Runs the bundle's policy with engine and guard, as `nac eval` does; returns measurements."""
    conditions = job.protocol.conditions
    steps = conditions.n_action_steps or None
    engine = TimedEngine(Engine(policy, seed, steps, _transition(job)))
    rollout = Rollout(twin.spec, job.slot.task, engine, conditions.latency_ms / 1000, twin=twin)
    guard = rollout.run_trial(seed, job.protocol.max_steps, observer)
    result = trial_result(rollout, guard, engine, job.slot.task, job.slot.trial)
    return {
        "clips": result.clips,
        "transition_jumps": tuple(result.transition_jumps),
        "jerk": result.jerk_rms_ratio,
        "holds": result.holds,
        "rejections": result.rejections,
        "chunk_ms": tuple(1000 * seconds for seconds in result.predict_s),
    }


def _transition(job: TrialJob) -> TransitionConfig:
    return TransitionConfig(transition=job.protocol.conditions.transition)


def _steps(twin: Twin) -> int:
    return int(twin.now() * twin.spec.action_rate_hz + 1e-6)


def _film_strip(twin: Twin, states: list[TwinState]) -> bytes:
    """Evenly spaced states from the first to the last, rendered side by side."""
    images = []
    for index in np.unique(np.linspace(0, len(states) - 1, N_IMAGES).round().astype(int)):
        twin.restore(states[index])
        images.append(twin.render("spectator", *IMAGE_SIZE))
    return encode_jpeg(np.hstack(images), JPEG_QUALITY)


@lru_cache(maxsize=8)  # one per task; compiling a scene takes as long as a trial
def _twin(spec: RobotSpec, task: str, randomization: DomainRandomization) -> Twin:
    return Twin(spec, task, randomization=randomization)


@lru_cache(maxsize=8)
def _policy(path: str, needs_context: bool, device: ComputeDevice) -> PolicyRuntime:
    return load_runtime(path, needs_context=needs_context, device=device)


def _jobs(run: TrialRun, film_strips: bool, device: ComputeDevice) -> Iterator[TrialJob]:
    methods = {code: method for method, code in run.codes.items()}
    for slot in run.pending():
        source = run.protocol.methods[methods[slot.code]]
        yield TrialJob(run.protocol, slot, source, film_strips, run.randomization, device)


def _save_film_strip(run: TrialRun, trial: SimulatedTrial) -> str:
    """Path of the written file relative to the run's folder; '' without a film strip."""
    if not trial.film_strip:
        return ""
    slot = trial.slot
    name = f"{FILM_STRIPS}/{slot.task}-{slot.trial:03d}-{slot.code}.jpg"
    write_file(run.folder / name, trial.film_strip)
    return name
