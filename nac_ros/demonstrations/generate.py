"""Demonstrations by the scripted expert, made by several processes and written by one."""

import os
import time
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from contextlib import closing, contextmanager
from dataclasses import asdict, dataclass
from functools import lru_cache, partial
from itertools import count
from multiprocessing import get_context
from pathlib import Path
from typing import NamedTuple

import numpy as np

from nac_ros.core import files
from nac_ros.core.errors import ConfigError, DatasetError, SimulationError
from nac_ros.core.processes import begin_worker
from nac_ros.core.provenance import environment
from nac_ros.datasets.episode import Episode
from nac_ros.datasets.lerobot import layout
from nac_ros.datasets.lerobot.info import read_info
from nac_ros.datasets.lerobot.writer import DatasetWriter
from nac_ros.robot.spec import RobotSpec, load_robot
from nac_ros.simulation import rendering  # noqa: F401 - it chooses the GL before mink loads MuJoCo
from nac_ros.simulation.domain_randomization import load_variation
from nac_ros.simulation.expert import Demonstration, demonstrate
from nac_ros.simulation.seeds import scene_seed
from nac_ros.simulation.twin import Twin

RUN_FILE = "meta/generate.json"
MAX_FAILURES_IN_A_ROW = 30


@dataclass(frozen=True, kw_only=True)
class GenerateConfig:
    """What decides every byte of the episodes; the number of workers does not.

    noise: probability that an episode begins amid a disturbed approach
    bundle: folder of a policy that drives first, '' = none
    scenes: how scenes vary, a name in config/scenes or the path of a YAML file
    """

    task: str
    seed: int = 0
    robot: str = "vx300s"
    noise: float = 0.5
    bundle: str = ""
    scenes: str = "nominal"

    def __post_init__(self) -> None:
        if not 0 <= self.noise <= 1:
            raise ConfigError(f"noise is a probability from 0 to 1, got {self.noise}")


@dataclass(frozen=True)
class Progress:
    """Where a run stands; failed counts the demonstrations that were not kept."""

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
    attempt: "Callable[[GenerateConfig, int], Attempt] | None" = None,
) -> Progress:
    """Brings the dataset in `out` to `episodes` successful demonstrations.

    Trial i has the same scene and expert whatever the workers; failed trials are left out. A
    folder that this function left half done is gone on with; one of another config is refused.
    attempt: makes demonstration i, `attempt_episode` by default; workers import it
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
        play = partial(attempt or attempt_episode, config)
        with _trials(play, first, workers) as attempts:
            for trial, made in attempts:
                counter.add(trial, made)
                if made.episode:
                    writer.add_episode(made.episode, trial)
                report(counter.progress())
                if writer.n_episodes >= episodes:
                    break
    return counter.progress()


class Attempt(NamedTuple):
    """A demonstration, None where the expert failed, and why it ended."""

    episode: Episode | None
    reason: str


def attempt_episode(config: GenerateConfig, trial: int) -> Attempt:
    """Demonstration `trial`; its scene is none that policies are judged on."""
    twin = _twin(config.robot, config.task, config.scenes)
    seed = scene_seed(f"demonstrations/{config.task}", config.seed, trial)
    try:
        shown = demonstrate(twin, seed, np.random.default_rng([seed, 1]), noise=config.noise)
    except SimulationError as error:  # this scene is out of the expert's reach
        return Attempt(None, str(error))
    return as_attempt(shown, twin.task.prompt)


def as_attempt(shown: Demonstration, prompt: str) -> Attempt:
    """What was shown as an episode, none where the task was not done."""
    if not shown.success:
        return Attempt(None, shown.reason)
    return Attempt(Episode(shown.proprio, shown.actions, prompt, shown.images, True), shown.reason)


class _Counter:
    def __init__(self, kept: int, wanted: int, first_trial: int):
        self._kept, self._wanted, self._failed = kept, wanted, first_trial - kept
        self._kept_before, self._start = kept, time.monotonic()
        self._row = 0

    def add(self, trial: int, attempt: Attempt) -> None:
        if attempt.episode:
            self._kept, self._row = self._kept + 1, 0
            return
        self._failed, self._row = self._failed + 1, self._row + 1
        if self._row >= MAX_FAILURES_IN_A_ROW:
            raise SimulationError(
                f"{self._row} demonstrations in a row failed, trial {trial} because: "
                f"{attempt.reason}; look at the scene or lower the noise"
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
            raise DatasetError(f"{out} holds episodes of another origin; choose another folder")
        return
    found = layout.read_json(path)["config"]
    for key, value in asdict(config).items():
        if found.setdefault(key, getattr(GenerateConfig, key, None)) != value:
            raise DatasetError(
                f"{out} was generated with {key} {found.get(key)}, not {value}; give the same "
                "options to go on with it, or choose another folder"
            )


@contextmanager
def _trials(
    play: Callable[[int], Attempt], first: int, workers: int
) -> Iterator[Iterator[tuple[int, Attempt]]]:
    """Trials from `first` on, in order, without end; the processes stop when it is left."""
    if workers == 1:
        yield ((trial, play(trial)) for trial in count(first))
        return
    pool = ProcessPoolExecutor(workers, get_context("spawn"), begin_worker)
    try:
        yield _ahead(pool, play, first, 2 * workers)
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def _ahead(
    pool: ProcessPoolExecutor, play: Callable[[int], Attempt], first: int, depth: int
) -> Iterator[tuple[int, Attempt]]:
    """Keeps `depth` trials under way and hands them out in order."""
    queue: deque[tuple[int, Future[Attempt]]] = deque()
    for trial in count(first):
        queue.append((trial, pool.submit(play, trial)))
        if len(queue) == depth:
            oldest, future = queue.popleft()
            yield oldest, future.result()


@lru_cache(maxsize=2)
def _twin(robot: str, task: str, scenes: str) -> Twin:
    # pictures as they are rendered: noise would make data sets several times as large
    twin = Twin(load_robot(robot), task, variation=load_variation(scenes), image_noise=0.0)
    twin.read()  # without a working GL it ends here, and is no failed demonstration
    return twin
