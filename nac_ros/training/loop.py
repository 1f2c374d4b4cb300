"""Shared by all training runs: learning-rate schedule, averaged weights, checkpoints, log."""

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
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from nac_ros.core import config as configs
from nac_ros.core import files
from nac_ros.core.device import CPU, ComputeDevice
from nac_ros.core.errors import ConfigError, show_text
from nac_ros.core.provenance import environment

CHECKPOINT, PREVIOUS, RUN = "checkpoint.pt", "checkpoint.previous.pt", "run.json"
MAY_CHANGE = ("steps", "seconds", "log_every")  # fields of a config that a resumed run may change
# What torch raises for a damaged checkpoint, or for one whose entries do not fit.
DAMAGE = (
    OSError,
    EOFError,
    RuntimeError,
    ValueError,
    KeyError,
    TypeError,
    IndexError,
    AttributeError,
    OverflowError,
    MemoryError,
    struct.error,
    zipfile.BadZipFile,
    pickle.UnpicklingError,
)
IDENTITY = "identity"  # entry of a checkpoint: settings and data that the run depends on


def seed_everything(seed: int) -> None:
    """Seeds python, numpy and torch."""
    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)


def cosine_rate(step: int, steps: int, warmup: int, floor: float = 0.02) -> float:
    """Factor on the learning rate: linear warm-up, then cosine decay to `floor`."""
    if step < warmup:
        return (step + 1) / warmup
    progress = min(1.0, (step - warmup) / max(1, steps - warmup))
    return floor + (1 - floor) * 0.5 * (1 + math.cos(math.pi * progress))


class AveragedWeights:
    """Exponential moving average of a module's floating-point state; the rest is copied.

    skip: keys of the module's state that are left as they are
    """

    def __init__(
        self, module: nn.Module, decay: float, skip: Callable[[str], bool] = lambda key: False
    ):
        self.decay, self._skip = decay, skip
        self.state = {key: value.detach().clone() for key, value in self._entries(module)}

    @torch.no_grad()
    def update(self, module: nn.Module, step: int) -> None:
        """One step; the decay is lower at first, so the initial weights are soon forgotten."""
        decay = min(self.decay, (1 + step) / (10 + step))
        for key, value in self._entries(module):
            if value.is_floating_point():
                self.state[key].lerp_(value.to(self.state[key].dtype), 1 - decay)
            else:
                self.state[key].copy_(value)

    @contextmanager
    def applied_to(self, module: nn.Module) -> Iterator[None]:
        """The module has the averaged weights inside, and its own again afterwards."""
        live = {key: value.clone() for key, value in self._entries(module)}
        load_partly(module, self.state, self._skip)
        try:
            yield
        finally:
            load_partly(module, live, self._skip)

    def load(self, state: dict[str, Tensor]) -> None:
        """Replaces the averages, on their devices."""
        self.state = {key: state[key].to(value.device) for key, value in self.state.items()}

    def _entries(self, module: nn.Module) -> Iterator[tuple[str, Tensor]]:
        return (item for item in module.state_dict().items() if not self._skip(item[0]))


def load_partly(module: nn.Module, state: dict[str, Tensor], skip: Callable[[str], bool]) -> None:
    """Copies `state` into `module`; raises KeyError unless it has exactly the keys not skipped."""
    wanted = {key for key in module.state_dict() if not skip(key)}
    if wrong := wanted ^ set(state):
        raise KeyError(f"{min(wrong)} is missing or unknown")
    module.load_state_dict(state, strict=False)


class TrainingLog:
    """Appends one JSON object per line to `path` and prints a short line on the terminal."""

    def __init__(self, path: Path):
        self._path = path
        self._start = time.monotonic()

    def write(self, step: int, metrics: dict[str, Any]) -> None:
        row = {"step": step, "seconds": round(time.monotonic() - self._start, 1), **metrics}
        with self._path.open("a") as file:
            file.write(json.dumps(row) + "\n")
        parts = [f"{key} {_short(value)}" for key, value in row.items()]
        print("  ".join(parts), flush=True)


def save_checkpoint(
    folder: Path,
    state: dict[str, Any],
    identity: Mapping[str, str],
    device: ComputeDevice = CPU,
) -> None:
    """Writes tensors, numbers, the random states and `identity` atomically, and syncs to disk.

    The previous checkpoint is kept under another name, in case this one is damaged later.
    """
    path, temporary = folder / CHECKPOINT, folder / (CHECKPOINT + files.TEMPORARY)
    whole = {**state, **device.random_states(), IDENTITY: dict(identity)}
    torch.save(whole, temporary)
    files.fsync(temporary)
    if path.is_file():
        os.replace(path, folder / PREVIOUS)
    os.replace(temporary, path)
    files.fsync(folder)


def restore_checkpoint(
    folder: Path,
    identity: Mapping[str, str],
    apply: Callable[[dict[str, Any]], None],
    device: ComputeDevice = CPU,
) -> bool:
    """Passes the newest undamaged checkpoint of `folder` to `apply`; False if there is none.

    identity: settings and data of the resumed run (`identity_of`)
    A damaged checkpoint is reported on stderr, and the previous one is used. Raises ConfigError
    if all are damaged, or if the run was started with another identity.
    """
    damaged = []
    for path in (folder / CHECKPOINT, folder / PREVIOUS):
        if not path.is_file():
            continue
        try:
            state = _load(path)
            started = state.pop(IDENTITY, None)
            if "random" not in state:
                raise KeyError("random")
            started = None if started is None else dict(started)
        except DAMAGE as error:
            damaged.append(f"{path} is damaged ({_first_line(error)})")
            continue
        if started is None:
            raise ConfigError(
                f"{path} has no record of its settings and data, an earlier version wrote it; "
                "choose another --out"
            )
        _check_identity(folder, started, identity)
        try:
            apply(state)
            device.set_random_states(state)
        except DAMAGE as error:
            damaged.append(f"{path} does not fit this run ({_first_line(error)})")
            continue
        for sentence in damaged:
            print(f"nac: {sentence}; resuming from {path.name}", file=sys.stderr)
        return True
    if damaged:
        raise ConfigError(
            f"{'; '.join(damaged)}; choose another --out, or remove it and train again"
        )
    print(f"nac: {folder} has no checkpoint to resume; the run starts anew", file=sys.stderr)
    return False


def identity_of(config: Any, **parts: Any) -> dict[str, str]:
    """Everything that a resumed run must have in common with the one it continues, as text.

    That is each field of the training config but MAY_CHANGE, and further `parts` such as the
    model's config and `data`, a digest.
    """
    fixed = {f"setting {k}": v for k, v in configs.to_plain(config).items() if k not in MAY_CHANGE}
    return {k: json.dumps(v, sort_keys=True) for k, v in {**parts, **fixed}.items()}


def _load(path: Path) -> dict[str, Any]:
    """Tensors and plain values; code in the file is never executed."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch warns of files that are no checkpoints
        return torch.load(path, map_location="cpu", weights_only=True)


def _check_identity(folder: Path, started: Mapping[str, str], now: Mapping[str, str]) -> None:
    for key in sorted({*started, *now}):
        if started.get(key) != now.get(key):
            what = "other data" if key == "data" else f"another {key}"
            raise ConfigError(
                f"{folder} was started with {what} ({_cut(started.get(key))}, now "
                f"{_cut(now.get(key))}); resume it with the same, or choose another --out"
            )


def _cut(text: str | None, most: int = 60) -> str:
    return "none" if text is None else show_text(text.strip('"'), most)


def _first_line(error: BaseException) -> str:
    lines = str(error).splitlines()
    return show_text(lines[0].strip().rstrip(".:"), 160) if lines else type(error).__name__


def has_checkpoint(folder: Path) -> bool:
    """Whether `folder` holds a checkpoint."""
    return (folder / CHECKPOINT).is_file() or (folder / PREVIOUS).is_file()


def drop_checkpoints(folder: Path) -> None:
    """Removes the checkpoints of a completed run."""
    for name in (CHECKPOINT, PREVIOUS):
        (folder / name).unlink(missing_ok=True)


def start_run(
    out: Path,
    config: Any,
    identity: Mapping[str, str],
    resume: bool,
    apply: Callable[[dict[str, Any]], None],
    sources: Sequence[Mapping[str, Any]] = (),
    device: ComputeDevice = CPU,
) -> bool:
    """Seeds all generators, restores the run in `out` if asked to, and writes run.json.

    config: dataclass of the training; sources: origin of each dataset, for run.json
    Returns whether a checkpoint was restored. Raises ConfigError if `out` holds a run that is not
    resumed, and as `restore_checkpoint` does.
    """
    seed_everything(config.seed)
    resumed = resume and restore_checkpoint(out, identity, apply, device)
    if has_checkpoint(out) and not resume:
        raise ConfigError(f"{out} holds a run already; add --resume or choose another --out")
    plain, data = configs.to_plain(config), [dict(source) for source in sources]
    facts = {"config": plain, "data": data, "device": device.name, "precision": device.precision}
    files.write_json(out / RUN, {**facts, **environment()})
    return resumed


def set_learning_rates(factor: float, *optimizers: torch.optim.Optimizer) -> None:
    """Sets every parameter group to `factor` times its `peak`."""
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            group["lr"] = group["peak"] * factor


def gradient_step(
    optimizer: torch.optim.Optimizer,
    loss: Tensor,
    clip: float,
    scaler: torch.amp.GradScaler | None = None,
) -> None:
    """Backward, gradient clipping by norm, one optimizer step.

    scaler: of this optimizer (`ComputeDevice.gradient_scaler`), which leaves out a step whose
        gradients overflow; None = the loss is not scaled
    """
    scaler = scaler or torch.amp.GradScaler(loss.device.type, enabled=False)
    optimizer.zero_grad(set_to_none=True)
    scaler.scale(loss).backward()
    scaler.unscale_(optimizer)
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    nn.utils.clip_grad_norm_(parameters, clip)
    scaler.step(optimizer)
    scaler.update()


def _short(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, list):
        return "[" + " ".join(_short(item) for item in value) + "]"
    return str(value)
