"""Which trial comes when: blocks that share a start place, methods in random order within."""

from typing import NamedTuple

import numpy as np

from nac_ros.core.errors import ConfigError
from nac_ros.simulation.seeds import scene_seed
from nac_ros.trials.protocol import Protocol

CODES = (
    "alder", "birch", "cedar", "elm", "fir", "hazel", "larch", "maple", "olive", "pine", "rowan",
    "willow",
)  # fmt: skip


class Slot(NamedTuple):
    """One planned trial.

    index: its turn; trial: its block within the task, which has one scene or start place
    code: what the method is called until the run is unblinded
    """

    index: int
    task: str
    trial: int
    place: str
    code: str


def plan(protocol: Protocol) -> tuple[Slot, ...]:
    """All trials in the order in which they are to be played, decided by the protocol alone."""
    slots: list[Slot] = []
    names = list(codes(protocol).values())
    for task in protocol.tasks:
        places = protocol.places.get(task) or ("",)
        for trial in range(protocol.trials):
            random = np.random.default_rng(scene_seed(f"order/{task}", protocol.seed, trial))
            for code in random.permutation(sorted(names)):
                place = places[trial % len(places)]
                slots.append(Slot(len(slots), task, trial, place, str(code)))
    return tuple(slots)


def codes(protocol: Protocol) -> dict[str, str]:
    """Method -> code. It hides names from an operator's eye, not from who computes it anew."""
    methods = sorted(protocol.methods)
    if len(methods) > len(CODES):
        raise ConfigError(f"{len(methods)} methods are too many, at most {len(CODES)} fit a run")
    random = np.random.default_rng(scene_seed("codes", protocol.seed, len(methods)))
    chosen = random.permutation(CODES)[: len(methods)]
    return {method: str(code) for method, code in zip(methods, chosen)}
