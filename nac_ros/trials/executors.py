"""Where trials are played: in this process, in several, or on a Ray cluster; results as they end.

An executor is given jobs lazily and asks for the next one only when it has room, so that whatever
decides about the next trial knows as many results as there can be.
"""

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from importlib import import_module
from multiprocessing import get_context
from typing import Any, Protocol, TypeVar

from nac_ros.core.errors import ConfigError, TrialError
from nac_ros.core.processes import begin_worker

J = TypeVar("J")
R = TypeVar("R")


class Executor(Protocol):
    """Plays jobs; what comes out is in no order, and each comes once."""

    def run(self, play: Callable[[J], R], jobs: Iterable[J]) -> Iterator[R]:
        """The result of `play` for each job; raises what `play` raised."""


class InProcessExecutor:
    """One after the other in this process."""

    def run(self, play: Callable[[J], R], jobs: Iterable[J]) -> Iterator[R]:
        yield from map(play, jobs)


class ProcessExecutor:
    """Processes of this machine, which end when this one does, even when it is killed. Raises
    TrialError where one of them dies."""

    def __init__(self, workers: int):
        self._workers = workers

    def run(self, play: Callable[[J], R], jobs: Iterable[J]) -> Iterator[R]:
        pool = ProcessPoolExecutor(self._workers, get_context("spawn"), begin_worker)

        def ended(running: list[Future[R]]) -> tuple[list[R], list[Future[R]]]:
            done, rest = wait(running, return_when=FIRST_COMPLETED)
            return [future.result() for future in done], list(rest)

        try:
            yield from _windowed(jobs, lambda job: pool.submit(play, job), ended, self._workers)
        except BrokenProcessPool as error:
            raise TrialError(
                f"one of {self._workers} workers died, perhaps for want of memory: go on with the "
                "run, with fewer --workers; what was judged is kept"
            ) from error
        finally:
            pool.shutdown(wait=True, cancel_futures=True)


class RayExecutor:
    """Workers of the Ray cluster at `address`; nac_ros and the bundles must be there as well."""

    def __init__(self, address: str, workers: int):
        self._ray: Any = _import_ray()
        self._address, self._workers = address, workers

    def run(self, play: Callable[[J], R], jobs: Iterable[J]) -> Iterator[R]:
        ray = self._ray
        try:
            ray.init(address=self._address)
        except ConnectionError as error:
            raise ConfigError(
                f"no Ray cluster answers at {self._address}; start one, or leave --ray out"
            ) from error
        remote = ray.remote(num_cpus=1)(play)

        def ended(running: list[Any]) -> tuple[list[R], list[Any]]:
            done, rest = ray.wait(running, num_returns=1)
            return ray.get(done), rest

        try:
            yield from _windowed(jobs, remote.remote, ended, self._workers)
        finally:
            ray.shutdown()


def choose(workers: int, ray: str) -> Executor:
    """The executor for so many workers; ray: address of a cluster, '' = this machine."""
    if ray:
        return RayExecutor(ray, workers)
    return ProcessExecutor(workers) if workers > 1 else InProcessExecutor()


def _windowed(
    jobs: Iterable[J],
    submit: Callable[[J], Any],
    ended: Callable[[list[Any]], tuple[list[R], list[Any]]],
    width: int,
) -> Iterator[R]:
    """Keeps `width` jobs under way."""
    running: list[Any] = []
    for job in jobs:
        running.append(submit(job))
        if len(running) < width:
            continue
        results, running = ended(running)
        yield from results
    while running:
        results, running = ended(running)
        yield from results


def _import_ray() -> Any:
    try:
        return import_module("ray")
    except ModuleNotFoundError as error:
        raise ConfigError(
            "Ray is not installed, and --ray needs it: `pip install nac_ros[cluster]`, or leave "
            "--ray out"
        ) from error
