"""One trial on the twin, where the judge stands in for the operator: an expert's or a bundle's."""

from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import lru_cache
from typing import NamedTuple

import numpy as np

from nac_ros.core.errors import ConfigError, SimulationError
from nac_ros.core.files import replace_with, unwritable
from nac_ros.core.image_codec import encode_jpeg
from nac_ros.evaluation.baselines import Timed
from nac_ros.evaluation.rollout import Rollout, trial_result
from nac_ros.export.bundle import Bundle, load_bundle
from nac_ros.inference.chunk_transition import TransitionConfig
from nac_ros.inference.engine import Engine
from nac_ros.robot.spec import RobotSpec, current_spec_of, load_robot
from nac_ros.simulation.domain_randomization import DomainRandomization
from nac_ros.simulation.expert import advance, expert
from nac_ros.simulation.seeds import scene_seed
from nac_ros.simulation.tasks import make_task
from nac_ros.simulation.tasks.base import Outcome
from nac_ros.simulation.twin import Twin, TwinState
from nac_ros.stats.smoothness import sparc
from nac_ros.trials.executors import Executor
from nac_ros.trials.protocol import EXPERT, TWIN, Protocol
from nac_ros.trials.run import Record, TrialRun, Verdict
from nac_ros.trials.schedule import Slot

ROBOT = "vx300s"  # that the twin is
PICTURES, SIZE, QUALITY = 6, (240, 180), 80  # of a film strip; width, height [pixels]; of JPEG
EVERY = 5  # control periods between the moments that pictures are chosen from


class Job(NamedTuple):
    """A slot to be played by `source` (a bundle, or `expert`), with or without a film strip, in
    scenes that vary as was frozen, whatever became of their file since."""

    protocol: Protocol
    slot: Slot
    source: str
    pictures: bool
    variation: DomainRandomization


class Played(NamedTuple):
    """What became of a slot; strip: JPEG of its moments, side by side, or nothing."""

    slot: Slot
    verdict: Verdict
    strip: bytes


class RolloutObserver:
    """Sees the twin before each control period and keeps what is told of the trial."""

    def __init__(self) -> None:
        self.states: list[TwinState] = []
        self._places: list[np.ndarray] = []

    def __call__(self, twin: Twin) -> None:
        if len(self._places) % EVERY == 0:
            self.states.append(twin.state())
        self._places.append(twin.arm.tool(twin.data).copy())

    def sparc(self, rate_hz: float) -> float | None:
        """Smoothness of the tool's way."""
        ways = np.linalg.norm(np.diff(self._places, axis=0), axis=1)
        return sparc(ways * rate_hz, rate_hz) if len(self._places) > 2 else None


def play(job: Job) -> Played:
    """One trial, which depends on its protocol and slot alone, not on who played before."""
    watch, task = RolloutObserver(), job.slot.task
    seed = scene_seed(task, job.protocol.seed, job.slot.trial)
    if job.source == EXPERT:
        twin = _twin(load_robot(ROBOT), task, job.variation)
        verdict = _expert(job, twin, seed, watch)
    else:
        bundle = _bundle(job.source)
        twin = _twin(current_spec_of(bundle.robot), task, job.variation)
        verdict = _policy(job, bundle, twin, seed, watch)
    strip = _strip(twin, [*watch.states, twin.state()]) if job.pictures else b""
    return Played(job.slot, verdict, strip)


def _expert(job: Job, twin: Twin, seed: int, watch: RolloutObserver) -> Verdict:
    """The expert moves the arm itself; after its last set-point it stays there."""
    twin.reset(seed)
    limit, lost = job.protocol.limits.steps, ""
    setpoints, last = expert(twin, np.random.default_rng([seed, 1])), twin.command()
    while twin.outcome().state == "running" and _steps(twin) < limit:
        watch(twin)
        try:
            last = next(setpoints, last)
        except SimulationError as error:  # it left a thing out of its own reach
            lost = str(error)
            break
        advance(twin, last)
    outcome = Outcome("failure", lost) if lost else _outcome(twin)
    return Verdict(
        outcome=outcome.state, reason=outcome.reason, steps=_steps(twin), seconds=twin.now(),
        sparc=watch.sparc(twin.spec.action_rate_hz),
    )  # fmt: skip


def _policy(job: Job, bundle: Bundle, twin: Twin, seed: int, watch: RolloutObserver) -> Verdict:
    """The bundle's policy through engine and guard, as `nac eval` plays it."""
    conditions, task, trial = job.protocol.conditions, job.slot.task, job.slot.trial
    engine = Engine(
        bundle, seed, threads=1, n_action_steps=conditions.n_action_steps or None,
        seam=TransitionConfig(seam=conditions.seam),
    )  # fmt: skip
    timed = Timed(engine)
    rehearsal = Rollout(twin.spec, task, timed, conditions.latency_ms / 1000, twin=twin)
    guard = rehearsal.play(seed, job.protocol.limits.steps, watch)
    told, outcome = trial_result(rehearsal, guard, timed, task, trial), _outcome(twin)
    return Verdict(
        outcome=outcome.state, reason=outcome.reason, steps=told.steps, seconds=twin.now(),
        clips=told.clips, jumps=tuple(told.jumps), jerk=told.jerk,
        sparc=watch.sparc(twin.spec.action_rate_hz), holds=told.holds, refusals=told.refusals,
        plan_ms=tuple(1000 * seconds for seconds in told.plan_s),
    )  # fmt: skip


def _outcome(twin: Twin) -> Outcome:
    """A trial that ran out of steps has failed."""
    outcome = twin.outcome()
    return Outcome("failure", twin.task.at_horizon(twin.data)) if _runs(outcome) else outcome


def _runs(outcome: Outcome) -> bool:
    return outcome.state == "running"


def _steps(twin: Twin) -> int:
    return int(twin.now() * twin.spec.action_rate_hz + 1e-6)


def _strip(twin: Twin, states: list[TwinState]) -> bytes:
    """Moments from the first to the last, evenly spread."""
    chosen = np.unique(np.linspace(0, len(states) - 1, PICTURES).round().astype(int))
    return encode_jpeg(np.hstack(list(_pictures(twin, [states[i] for i in chosen]))), QUALITY)


def _pictures(twin: Twin, states: list[TwinState]) -> Iterator[np.ndarray]:
    for state in states:
        twin.restore(state)
        yield twin.render("spectator", *SIZE)


@lru_cache(maxsize=8)  # all tasks: compiling one takes as long as a trial
def _twin(spec: RobotSpec, task: str, variation: DomainRandomization) -> Twin:
    return Twin(spec, task, variation=variation)


@lru_cache(maxsize=8)
def _bundle(path: str) -> Bundle:
    return load_bundle(path)


STRIPS = "strips"


def play_all(
    run: TrialRun,
    executor: Executor,
    pictures: bool = True,
    report: Callable[[Record], None] = lambda record: None,
) -> None:
    """Brings a run on the twin to its end and unblinds it; a film strip of each trial with
    `pictures`. What was judged stays; raises ConfigError for another robot."""
    check_unattended(run.protocol)
    for played in executor.run(play, _jobs(run, pictures)):
        if run.wants(played.slot):  # others ran ahead of the stop rule
            report(run.judge(played.slot, replace(played.verdict, strip=_keep(run, played))))
    run.unblind()


def check_unattended(protocol: Protocol) -> None:
    """Raises ConfigError unless the protocol can be played with nobody there, and UnknownName
    for a task that the twin does not have."""
    if protocol.robot != TWIN:
        raise ConfigError(
            f"robot {protocol.robot} has no judge but a person: start `ros2 launch nac_ros "
            f"evaluate.launch.py robot:={protocol.robot} protocol:=FILE` with one there, or play "
            "on the twin (--robot twin)"
        )
    for task in protocol.tasks:
        make_task(task)


def _jobs(run: TrialRun, pictures: bool) -> Iterator[Job]:
    methods = {code: method for method, code in run.codes.items()}
    for slot in run.pending():
        source = run.protocol.methods[methods[slot.code]]
        yield Job(run.protocol, slot, source, pictures, run.variation)


def _keep(run: TrialRun, played: Played) -> str:
    """Writes the strip; its path relative to the run's folder."""
    if not played.strip:
        return ""
    slot = played.slot
    name = f"{STRIPS}/{slot.task}-{slot.trial:03d}-{slot.code}.jpg"
    try:
        replace_with(run.folder / name, lambda to: to.write_bytes(played.strip))
    except OSError as error:
        raise unwritable(run.folder / name, error) from error
    return name
