"""Demonstrations that begin where a policy went: what it does badly is what it is shown.

Dataset aggregation after Ross et al., arXiv 1011.0686, in whole corrections: the policy drives for
a random while, then the expert takes over and its way to success is the demonstration.
"""

from functools import lru_cache

import numpy as np

from nac_ros.core.errors import SimulationError
from nac_ros.demonstrations.generate import Attempt, GenerateConfig, as_attempt
from nac_ros.evaluation.rollout import Rollout
from nac_ros.export.bundle import load_bundle
from nac_ros.inference.engine import Engine
from nac_ros.simulation.expert import take_over
from nac_ros.simulation.seeds import scene_seed

DRIVEN = (16, 300)  # control periods that the policy drives
LATENCY_S = 0.1


def demonstrate_after_policy(config: GenerateConfig, trial: int) -> Attempt:
    """Demonstration `trial` of the expert, taking over from the policy in `config.bundle`."""
    rehearsal = _rehearsal(config.bundle, config.task, config.scenes)
    twin = rehearsal.twin
    seed = scene_seed(f"demonstrations/{config.task}", config.seed, trial)
    rng = np.random.default_rng([seed, 2])
    velocities = _drive(rehearsal, seed, int(rng.integers(*DRIVEN)))
    if twin.outcome().state != "running":
        return Attempt(None, f"over before the expert came: {twin.outcome().reason}")
    try:
        shown = take_over(twin, rng, velocities)
    except SimulationError as error:  # the policy left the arm or a thing out of reach
        return Attempt(None, str(error))
    return as_attempt(shown, twin.task.prompt)


def _drive(rehearsal: Rollout, seed: int, steps: int) -> np.ndarray:
    """Lets the policy drive; the velocity `[D]` that it leaves the set-point with."""
    rehearsal.begin(seed)
    twin = rehearsal.twin
    before = twin.command()
    for _ in range(steps):
        if twin.outcome().state != "running":
            break
        before = twin.command()
        rehearsal.step()
    return (twin.command() - before) * rehearsal.spec.action_rate_hz


@lru_cache(maxsize=1)
def _rehearsal(bundle: str, task: str, scenes: str) -> Rollout:
    loaded = load_bundle(bundle)
    return Rollout(loaded.robot, task, Engine(loaded, threads=1), LATENCY_S, scenes)
