"""What every training run shares: schedule, averaged weights, checkpoints, a log."""

import json
import math
import os
import pickle
import random
import struct
import sys
import time
import warnings
import zipfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from nac_ros.core import files
from nac_ros.core.errors import ConfigError, show_text
from nac_ros.core.provenance import environment

CHECKPOINT, PREVIOUS, RUN = "checkpoint.pt", "checkpoint.previous.pt", "run.json"
MAY_CHANGE = ("steps", "seconds", "log_every")  # of a training config, when a run is resumed
IDENTITY = "identity"  # entry of a checkpoint: what the run was begun with
# what reading a damaged file, or state of another network, ends in
DAMAGE = (
    OSError, EOFError, RuntimeError, ValueError, KeyError, TypeError, IndexError, AttributeError,
    OverflowError, MemoryError, struct.error, zipfile.BadZipFile, pickle.UnpicklingError,
)  # fmt: skip


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


class TrainingLog:
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


def save_checkpoint(folder: Path, state: dict[str, Any], identity: Mapping[str, str]) -> None:
    """Writes tensors, numbers, random states and `identity`; complete and on disk, or not at all.

    The checkpoint before this one is kept beside it, for the case that this one is damaged later.
    """
    path, temporary = folder / CHECKPOINT, folder / (CHECKPOINT + files.TEMPORARY)
    whole = {**state, "random": torch.get_rng_state(), IDENTITY: dict(identity)}
    torch.save(whole, temporary)
    files.fsync(temporary)
    if path.is_file():
        os.replace(path, folder / PREVIOUS)
    os.replace(temporary, path)
    files.fsync(folder)


def restore_checkpoint(
    folder: Path, identity: Mapping[str, str], apply: Callable[[dict[str, Any]], None]
) -> bool:
    """Hands the newest undamaged checkpoint of `folder` to `apply`; False where there is none.

    identity: what the run that goes on depends on (`identity_of`)
    A damaged checkpoint is named on stderr, and the one before it is used. Raises ConfigError
    where none can be used, or where the run was begun with something else than `identity`.
    """
    damaged = []
    for path in (folder / CHECKPOINT, folder / PREVIOUS):
        if not path.is_file():
            continue
        try:
            state = _load(path)
            random_state, begun = state.pop("random"), state.pop(IDENTITY, None)
            begun = None if begun is None else dict(begun)
        except DAMAGE as error:
            damaged.append(f"{path} is damaged ({_first_line(error)})")
            continue
        if begun is None:
            raise ConfigError(
                f"{path} does not say what it was trained on, an earlier version wrote it; "
                "choose another --out"
            )
        _check_identity(folder, begun, identity)
        try:
            apply(state)
            torch.set_rng_state(random_state)
        except DAMAGE as error:
            damaged.append(f"{path} does not fit this run ({_first_line(error)})")
            continue
        for sentence in damaged:
            print(f"nac: {sentence}; going on from {path.name}", file=sys.stderr)
        return True
    if damaged:
        raise ConfigError(
            f"{'; '.join(damaged)}; choose another --out, or remove it and train again"
        )
    print(f"nac: {folder} has no checkpoint to resume; the run begins anew", file=sys.stderr)
    return False


def identity_of(config: Mapping[str, Any], **parts: Any) -> dict[str, str]:
    """What a run depends on, each part as text: the settings of its training that may not change
    when it is resumed, and further `parts` such as the model's settings and `data`, a digest."""
    fixed = {f"setting {k}": v for k, v in config.items() if k not in MAY_CHANGE}
    return {k: json.dumps(v, sort_keys=True) for k, v in {**parts, **fixed}.items()}


def _load(path: Path) -> dict[str, Any]:
    """Tensors and plain values; never code."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of files that are no checkpoints
        return torch.load(path, map_location="cpu", weights_only=True)


def _check_identity(folder: Path, begun: Mapping[str, str], now: Mapping[str, str]) -> None:
    for key in sorted({*begun, *now}):
        if begun.get(key) != now.get(key):
            what = "other data" if key == "data" else f"another {key}"
            raise ConfigError(
                f"{folder} was begun with {what} ({_cut(begun.get(key))}, now "
                f"{_cut(now.get(key))}); resume it with the same, or choose another --out"
            )


def _cut(text: str | None, most: int = 60) -> str:
    return "none" if text is None else show_text(text.strip('"'), most)


def _first_line(error: BaseException) -> str:
    lines = str(error).splitlines()
    return show_text(lines[0].strip().rstrip(".:"), 160) if lines else type(error).__name__


def has_checkpoint(folder: Path) -> bool:
    """Whether a run in `folder` has written a checkpoint."""
    return (folder / CHECKPOINT).is_file() or (folder / PREVIOUS).is_file()


def drop_checkpoints(folder: Path) -> None:
    """Removes the checkpoints of a run that is complete."""
    for name in (CHECKPOINT, PREVIOUS):
        (folder / name).unlink(missing_ok=True)


def prepare_folder(
    out: Path, config: dict[str, Any], resume: bool, data: Sequence[Mapping[str, Any]] = ()
) -> Path:
    """Makes `out` and writes run.json; refuses to overwrite a run that is not resumed.

    data: where each dataset came from (`nac_ros.datasets.convert.describe`)
    """
    if has_checkpoint(out) and not resume:
        raise ConfigError(f"{out} holds a run already; add --resume or choose another --out")
    out.mkdir(parents=True, exist_ok=True)
    run = {"config": config, "data": [dict(one) for one in data], **environment()}
    files.write_json(out / RUN, run)
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
