"""Run jobs in this process, in several processes, or on a Ray cluster; results as they complete.

An executor takes the next job only when a worker is free, so that whoever chooses the next trial
knows all results so far.
"""

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from importlib import import_module
from multiprocessing import get_context
from typing import Any, Protocol, TypeVar

from nac_ros.core.errors import ConfigError, TrialError
from nac_ros.core.processes import set_up_worker

J = TypeVar("J")
R = TypeVar("R")


class Executor(Protocol):
    """Runs jobs and yields each result once, in any order."""

    def run(self, function: Callable[[J], R], jobs: Iterable[J]) -> Iterator[R]:
        """The result of `function` for each job; raises what `function` raises."""


class InProcessExecutor:
    """Runs one job after the other in this process."""

    def run(self, function: Callable[[J], R], jobs: Iterable[J]) -> Iterator[R]:
        yield from map(function, jobs)


class ProcessExecutor:
    """Runs jobs in processes that end with this one, even if it is killed.

    Raises TrialError if a process dies.
    """

    def __init__(self, workers: int):
        self._workers = workers

    def run(self, function: Callable[[J], R], jobs: Iterable[J]) -> Iterator[R]:
        pool = ProcessPoolExecutor(self._workers, get_context("spawn"), set_up_worker)

        def collect(running: list[Future[R]]) -> tuple[list[R], list[Future[R]]]:
            done, rest = wait(running, return_when=FIRST_COMPLETED)
            return [future.result() for future in done], list(rest)

        try:
            yield from _run_bounded(
                jobs, lambda job: pool.submit(function, job), collect, self._workers
            )
        except BrokenProcessPool as error:
            raise TrialError(
                f"one of {self._workers} workers died, perhaps for lack of memory: resume the run "
                "with fewer --workers; all verdicts are kept"
            ) from error
        finally:
            pool.shutdown(wait=True, cancel_futures=True)


class RayExecutor:
    """Runs jobs on the Ray cluster at `address`, whose nodes need nac_ros and the bundles."""

    def __init__(self, address: str, workers: int):
        try:
            self._ray: Any = import_module("ray")
        except ModuleNotFoundError as error:
            raise ConfigError(
                "--ray needs Ray, which is not installed: `pip install nac_ros[cluster]`, or "
                "leave --ray out"
            ) from error
        self._address, self._workers = address, workers

    def run(self, function: Callable[[J], R], jobs: Iterable[J]) -> Iterator[R]:
        ray = self._ray
        try:
            ray.init(address=self._address)
        except ConnectionError as error:
            raise ConfigError(
                f"no Ray cluster answers at {self._address}; start one, or leave --ray out"
            ) from error
        remote = ray.remote(num_cpus=1)(function)

        def collect(running: list[Any]) -> tuple[list[R], list[Any]]:
            done, rest = ray.wait(running, num_returns=1)
            return ray.get(done), rest

        try:
            yield from _run_bounded(jobs, remote.remote, collect, self._workers)
        finally:
            ray.shutdown()


def make_executor(workers: int, ray: str) -> Executor:
    """Executor with this many workers; ray: address of a cluster, '' for this machine."""
    if ray:
        return RayExecutor(ray, workers)
    return ProcessExecutor(workers) if workers > 1 else InProcessExecutor()


def _run_bounded(
    jobs: Iterable[J],
    submit: Callable[[J], Any],
    collect: Callable[[list[Any]], tuple[list[R], list[Any]]],
    limit: int,
) -> Iterator[R]:
    """Submits jobs, at most `limit` at a time; `collect` waits for at least one result and returns
    the results and the jobs that still run."""
    running: list[Any] = []
    for job in jobs:
        running.append(submit(job))
        if len(running) < limit:
            continue
        results, running = collect(running)
        yield from results
    while running:
        results, running = collect(running)
        yield from results
