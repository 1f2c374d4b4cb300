"""Training of one codec for several robots: their batches take turns over the shared parts."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from nac_ros.data.windows import Windows
from nac_ros.tokenizers.family import begin_codes
from nac_ros.tokenizers.nac import Nac
from nac_ros.training.tokenizer import TokenizerTrainer, TokenizerTraining

Data = Mapping[str, tuple[Windows, Windows]]  # robot -> what to train on, what is held out


def train_family(
    family: Mapping[str, Nac],
    data: Data,
    config: TokenizerTraining,
    out: Path,
    resume: bool = False,
    sources: Mapping[str, Sequence[Mapping[str, Any]]] | None = None,
) -> dict[str, Any]:
    """Trains all members, each saved in `out`/<robot>; robot -> figures.

    sources: where each robot's data came from, for its run.json
    `steps` are those of each robot; `seconds` are shared out evenly.
    """
    config = replace(config, seconds=config.seconds / len(family))
    trainers = {
        name: TokenizerTrainer(family[name], config, out / name, (sources or {}).get(name, ()))
        for name in data
    }
    resumed = [trainers[name].begin(*data[name], resume) for name in data]
    if not all(resumed):
        chunks = {name: trainer.chunks for name, trainer in trainers.items()}
        began = time.perf_counter()
        begin_codes(family, chunks, config.seed)
        for trainer in trainers.values():
            trainer.charge((time.perf_counter() - began) / len(trainers))
    while not all(trainer.done for trainer in trainers.values()):
        for trainer in trainers.values():
            if not trainer.done:
                trainer.advance()
    return {name: trainer.finish() for name, trainer in trainers.items()}
