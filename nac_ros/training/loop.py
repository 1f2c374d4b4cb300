"""What every training run shares: schedule, averaged weights, checkpoints, a log."""

import json
import math
import os
import random
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from nac_ros.errors import ConfigError
from nac_ros.provenance import environment

CHECKPOINT = "checkpoint.pt"


def seed_everything(seed: int) -> None:
    """Seeds python, numpy and torch."""
    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)


def cosine_rate(step: int, steps: int, warmup: int, floor: float = 0.02) -> float:
    """Factor on the learning rate: linear warm-up, then a cosine down to `floor`."""
    if step < warmup:
        return (step + 1) / warmup
    progress = min(1.0, (step - warmup) / max(1, steps - warmup))
    return floor + (1 - floor) * 0.5 * (1 + math.cos(math.pi * progress))


class AveragedWeights:
    """Exponential moving average of a module's weights; buffers are copied."""

    def __init__(self, module: nn.Module, decay: float):
        self.decay = decay
        self.state = {key: value.detach().clone() for key, value in module.state_dict().items()}

    @torch.no_grad()
    def update(self, module: nn.Module, step: int) -> None:
        """One step; the decay warms up so that the first thousand steps do not linger."""
        decay = min(self.decay, (1 + step) / (10 + step))
        for key, value in module.state_dict().items():
            if value.is_floating_point():
                self.state[key].lerp_(value.to(self.state[key].dtype), 1 - decay)
            else:
                self.state[key].copy_(value)


class Log:
    """One JSON object a line in `path`, and a short line on the terminal."""

    def __init__(self, path: Path):
        self._path = path
        self._start = time.monotonic()

    def write(self, step: int, figures: dict[str, Any]) -> None:
        row = {"step": step, "seconds": round(time.monotonic() - self._start, 1), **figures}
        with self._path.open("a") as file:
            file.write(json.dumps(row) + "\n")
        parts = [f"{key} {_short(value)}" for key, value in row.items()]
        print("  ".join(parts), flush=True)


def save_checkpoint(folder: Path, state: dict[str, Any]) -> None:
    """Writes tensors, numbers and random states; complete or not at all."""
    partial = folder / (CHECKPOINT + ".partial")
    torch.save({**state, "random": torch.get_rng_state()}, partial)
    os.replace(partial, folder / CHECKPOINT)


def load_checkpoint(folder: Path) -> dict[str, Any] | None:
    """The checkpoint in `folder`, None when there is none; the random state is restored."""
    path = folder / CHECKPOINT
    if not path.is_file():
        return None
    state = torch.load(path, weights_only=True)
    torch.set_rng_state(state.pop("random"))
    return state


def prepare_folder(out: Path, config: dict[str, Any], resume: bool) -> Path:
    """Makes `out` and writes run.json; refuses to overwrite a run that is not resumed."""
    if (out / CHECKPOINT).is_file() and not resume:
        raise ConfigError(f"{out} holds a run already; add --resume or choose another --out")
    out.mkdir(parents=True, exist_ok=True)
    run = {"config": config, **environment()}
    (out / "run.json").write_text(json.dumps(run, indent=1) + "\n")
    return out


def gradient_step(optimizer: torch.optim.Optimizer, loss: Tensor, clip: float) -> None:
    """Backward, gradient clipping by norm, one optimizer step."""
    optimizer.zero_grad(set_to_none=True)
    loss.backward()
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    nn.utils.clip_grad_norm_(parameters, clip)
    optimizer.step()


def _short(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, list):
        return "[" + " ".join(_short(item) for item in value) + "]"
    return str(value)
