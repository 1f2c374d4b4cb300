"""Randomized block schedule: all methods share each block's scene, in random order within it."""

from typing import NamedTuple

import numpy as np

from nac_ros.core.errors import ConfigError
from nac_ros.simulation.seeds import scene_seed
from nac_ros.trials.protocol import TrialProtocol

CODE_NAMES = (
    *("alder", "birch", "cedar", "elm", "fir", "hazel"),
    *("larch", "maple", "olive", "pine", "rowan", "willow"),
)


class Slot(NamedTuple):
    """One planned trial.

    index: position in the schedule
    trial: block within the task; all its trials share one scene or start position
    code: pseudonym of the method until the run is unblinded
    """

    index: int
    task: str
    trial: int
    start_position: str
    code: str


def make_schedule(protocol: TrialProtocol) -> tuple[Slot, ...]:
    """All trials in the order in which they are run; a function of the protocol alone."""
    slots: list[Slot] = []
    codes = sorted(method_codes(protocol).values())
    for task in protocol.tasks:
        positions = protocol.start_positions.get(task) or ("",)
        for trial in range(protocol.trials):
            random = np.random.default_rng(scene_seed(f"order/{task}", protocol.seed, trial))
            position = positions[trial % len(positions)]
            for code in random.permutation(codes):
                slots.append(Slot(len(slots), task, trial, position, str(code)))
    return tuple(slots)


def method_codes(protocol: TrialProtocol) -> dict[str, str]:
    """Method -> code. The code hides the method from the operator; it is no secret, as anyone can
    compute it from the protocol."""
    methods = sorted(protocol.methods)
    if len(methods) > len(CODE_NAMES):
        raise ConfigError(f"{len(methods)} methods are too many; at most {len(CODE_NAMES)}")
    random = np.random.default_rng(scene_seed("codes", protocol.seed, len(methods)))
    return dict(zip(methods, random.permutation(CODE_NAMES).tolist()))
