"""DAgger: the policy drives for a random time, then the scripted expert takes over until success.

Dataset aggregation of Ross et al. 2011 (arXiv 1011.0686). The expert's part is the demonstration,
so the dataset covers the states that the policy reaches. Unlike the paper's per-step labels it is
one continuous correction.
"""

from functools import lru_cache

import numpy as np

from nac_ros.core.errors import SimulationError
from nac_ros.demonstrations.generate import Attempt, GenerateConfig, scene_seed_of, to_attempt
from nac_ros.evaluation.rollout import Rollout
from nac_ros.inference.engine import Engine
from nac_ros.inference.load_runtime import load_runtime
from nac_ros.simulation.expert import record_expert

POLICY_STEPS = (16, 300)  # range of the control periods that the policy drives
LATENCY_S = 0.1


def dagger_attempt(config: GenerateConfig, trial: int) -> Attempt:
    """DAgger demonstration `trial`: the expert continues from where `config.bundle` has driven."""
    rollout = _make_rollout(config.bundle, config.task, config.randomization)
    twin, seed = rollout.twin, scene_seed_of(config, trial)
    rng = np.random.default_rng([seed, 2])
    velocities = _drive(rollout, seed, int(rng.integers(*POLICY_STEPS)))
    if twin.outcome().state != "running":
        return Attempt(None, f"the trial ended under the policy: {twin.outcome().reason}")
    try:
        demonstration = record_expert(twin, rng, velocities)
    except SimulationError as error:  # the policy left the arm or an object out of reach
        return Attempt(None, str(error))
    return to_attempt(demonstration, twin.task.prompt)


def _drive(rollout: Rollout, seed: int, steps: int) -> np.ndarray:
    """Runs the policy for `steps` periods; returns the set-point's velocity `[D]` at the end."""
    rollout.reset(seed)
    twin = rollout.twin
    before = twin.setpoint()
    for _ in range(steps):
        if twin.outcome().state != "running":
            break
        before = twin.setpoint()
        rollout.step()
    return (twin.setpoint() - before) * rollout.spec.action_rate_hz


@lru_cache(maxsize=1)
def _make_rollout(bundle: str, task: str, randomization: str) -> Rollout:
    policy = load_runtime(bundle)
    return Rollout(policy.robot, task, Engine(policy), LATENCY_S, randomization)
