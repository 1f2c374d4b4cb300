"""Generates a dataset of scripted demonstrations: several processes simulate, one writes."""

import os
import time
from collections import deque
from collections.abc import Callable, Generator
from concurrent.futures import Future, ProcessPoolExecutor
from contextlib import closing
from dataclasses import asdict, dataclass
from functools import lru_cache, partial
from itertools import count
from multiprocessing import get_context
from pathlib import Path
from typing import NamedTuple

import numpy as np

from nac_ros.core import files
from nac_ros.core.errors import ConfigError, DatasetError, SimulationError
from nac_ros.core.processes import set_up_worker
from nac_ros.core.provenance import environment
from nac_ros.datasets.episode import Episode
from nac_ros.datasets.lerobot import layout
from nac_ros.datasets.lerobot.info import read_info
from nac_ros.datasets.lerobot.writer import DatasetWriter
from nac_ros.robot.spec import RobotSpec, load_robot
from nac_ros.simulation import rendering  # noqa: F401 - sets the GL before mink imports MuJoCo
from nac_ros.simulation.domain_randomization import load_randomization
from nac_ros.simulation.expert import Demonstration, demonstrate
from nac_ros.simulation.seeds import scene_seed
from nac_ros.simulation.twin import Twin

RUN_FILE = "meta/generate.json"
MAX_FAILURES_IN_A_ROW = 30


@dataclass(frozen=True, kw_only=True)
class GenerateConfig:
    """Everything that determines the bytes of the episodes; the number of workers does not.

    disturbed_share: probability that an episode starts after a disturbed approach
    bundle: folder of a policy that drives first (DAgger), '' = none
    randomization: a name in config/randomization or the path of a YAML file
    """

    task: str
    seed: int = 0
    robot: str = "vx300s"
    disturbed_share: float = 0.5
    bundle: str = ""
    randomization: str = "nominal"

    def __post_init__(self) -> None:
        share = self.disturbed_share
        if not 0 <= share <= 1:
            raise ConfigError(f"disturbed_share must be a probability from 0 to 1, got {share}")


class Attempt(NamedTuple):
    """A demonstration, None if the expert failed, and the reason for its end."""

    episode: Episode | None
    reason: str


@dataclass(frozen=True)
class Progress:
    """Progress of a run: episodes kept and wanted, failed attempts, and the rate."""

    kept: int
    wanted: int
    failed: int
    episodes_per_s: float

    def line(self) -> str:
        """One line for a terminal."""
        left = self.wanted - self.kept
        eta = f"{left / self.episodes_per_s:.0f} s left" if self.episodes_per_s else "starting"
        rate = f"{60 * self.episodes_per_s:.1f} per minute"
        return f"{self.kept}/{self.wanted} episodes, {self.failed} failed, {rate}, {eta}"


def generate(
    config: GenerateConfig,
    episodes: int,
    out: Path | str,
    *,
    workers: int = 2,
    report: Callable[[Progress], None] = lambda progress: None,
    attempt: Callable[[GenerateConfig, int], Attempt] | None = None,
) -> Progress:
    """Adds demonstrations to the dataset in `out` until it has `episodes` successful ones.

    Trial i has the same scene and expert for any number of workers; failed trials are left out.
    An unfinished dataset of the same config is resumed, any other raises DatasetError.

    attempt: makes demonstration i, `attempt_demonstration` by default; workers import it by name
    """
    spec = load_robot(config.robot)
    out = Path(out)
    if workers < 1 or episodes < 1:
        raise ConfigError(f"wanted >= 1 episodes and workers, got {episodes} and {workers}")
    _check_same_run(out, config)
    with closing(_open_writer(out, spec)) as writer:
        origin = {"renderer": os.environ["MUJOCO_GL"], **environment()}
        files.write_json(out / RUN_FILE, {"config": asdict(config), **origin})
        first = 0 if writer.last_trial is None else writer.last_trial + 1
        counter = _Counter(writer.n_episodes, episodes, first)
        report(counter.progress())
        if writer.n_episodes >= episodes:
            return counter.progress()
        make = partial(attempt or attempt_demonstration, config)
        with closing(_attempts(make, first, workers)) as attempts:
            for trial, made in attempts:
                counter.add(trial, made)
                if made.episode:
                    writer.add_episode(made.episode, trial)
                report(counter.progress())
                if writer.n_episodes >= episodes:
                    break
    return counter.progress()


def attempt_demonstration(config: GenerateConfig, trial: int) -> Attempt:
    """Demonstration `trial` of the scripted expert."""
    twin = _make_twin(config.robot, config.task, config.randomization)
    seed = scene_seed_of(config, trial)
    rng = np.random.default_rng([seed, 1])
    try:
        demonstration = demonstrate(twin, seed, rng, config.disturbed_share)
    except SimulationError as error:  # an object is out of the expert's reach
        return Attempt(None, str(error))
    return to_attempt(demonstration, twin.task.prompt)


def scene_seed_of(config: GenerateConfig, trial: int) -> int:
    """Scene seed of demonstration `trial`; evaluations use no such scene."""
    return scene_seed(f"demonstrations/{config.task}", config.seed, trial)


def to_attempt(demonstration: Demonstration, prompt: str) -> Attempt:
    """A successful demonstration as an episode, a failed one as none."""
    d = demonstration
    episode = Episode(d.proprio, d.actions, prompt, d.images, True) if d.success else None
    return Attempt(episode, d.reason)


class _Counter:
    def __init__(self, kept: int, wanted: int, first_trial: int):
        self._kept, self._wanted, self._failed = kept, wanted, first_trial - kept
        self._kept_before, self._start = kept, time.monotonic()
        self._failed_in_a_row = 0

    def add(self, trial: int, attempt: Attempt) -> None:
        if attempt.episode:
            self._kept, self._failed_in_a_row = self._kept + 1, 0
            return
        self._failed, self._failed_in_a_row = self._failed + 1, self._failed_in_a_row + 1
        if self._failed_in_a_row >= MAX_FAILURES_IN_A_ROW:
            raise SimulationError(
                f"{self._failed_in_a_row} demonstrations in a row failed, trial {trial} because: "
                f"{attempt.reason}; look at the scene or lower the disturbed share"
            )

    def progress(self) -> Progress:
        elapsed = time.monotonic() - self._start
        rate = (self._kept - self._kept_before) / max(elapsed, 1e-6)
        return Progress(self._kept, self._wanted, self._failed, rate)


def _open_writer(out: Path, spec: RobotSpec) -> DatasetWriter:
    return DatasetWriter.create_or_resume(
        out,
        fps=spec.action_rate_hz,
        robot_type=spec.name,
        names=spec.joint_names,
        units=spec.units,
        cameras={camera.name: (camera.height, camera.width) for camera in spec.cameras},
    )


def _check_same_run(out: Path, config: GenerateConfig) -> None:
    path = out / RUN_FILE
    if not path.is_file():
        if (out / "meta/info.json").is_file() and read_info(out).get("total_episodes"):
            raise DatasetError(f"{out} holds other episodes; choose another folder")
        return
    found = layout.read_json(path)["config"]
    for key, value in asdict(config).items():
        if found.get(key) != value:
            raise DatasetError(
                f"{out} was generated with {key} {found.get(key)}, not {value}; give the same "
                "options to resume it, or choose another folder"
            )


def _attempts(
    make: Callable[[int], Attempt], first: int, workers: int
) -> Generator[tuple[int, Attempt], None, None]:
    """Attempts from trial `first` on, in order and without end; closing it stops the workers."""
    if workers == 1:
        yield from ((trial, make(trial)) for trial in count(first))
    pool = ProcessPoolExecutor(workers, get_context("spawn"), set_up_worker)
    running: deque[tuple[int, Future[Attempt]]] = deque()
    try:
        for trial in count(first):
            running.append((trial, pool.submit(make, trial)))
            if len(running) == 2 * workers:
                oldest, future = running.popleft()
                yield oldest, future.result()
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


@lru_cache(maxsize=2)
def _make_twin(robot: str, task: str, randomization: str) -> Twin:
    # No image noise: it would make datasets several times as large.
    ranges = load_randomization(randomization)
    twin = Twin(load_robot(robot), task, randomization=ranges, image_noise=0.0)
    twin.read()  # raises without a working GL, before an attempt could count that as a failure
    return twin
