"""What may enter a tokenizer: actions and joint states of the right shape, all finite."""

import numpy as np
import torch
from torch import Tensor

from nac_ros.errors import BadActions

MAX_STEPS = 100_000  # a chunk longer than this is a mistake, not a motion


def check_chunks(actions, horizon: int, action_dim: int) -> Tensor:
    """Float32 `[B, H, D]` from tensors, arrays or lists; raises BadActions for anything else."""
    found = torch.as_tensor(np.asarray(actions) if isinstance(actions, list) else actions)
    if found.ndim == 3 and found.shape[1] > MAX_STEPS:
        raise BadActions(f"{found.shape[1]} steps in a chunk; at most {MAX_STEPS}")
    if tuple(found.shape[1:]) != (horizon, action_dim) or found.ndim != 3 or not len(found):
        shape = tuple(found.shape)
        raise BadActions(f"actions must be [B >= 1, {horizon}, {action_dim}], got {shape}")
    found = found.float()
    if not torch.isfinite(found).all():
        place = torch.nonzero(~torch.isfinite(found))[0].tolist()  # [row, step, column]
        raise BadActions(f"actions hold {found[tuple(place)]} at {place}")
    return found


def check_references(reference, batch: int, action_dim: int) -> Tensor:
    """Float32 `[B, D]`; raises BadActions for anything else."""
    found = torch.as_tensor(reference).float()
    if tuple(found.shape) != (batch, action_dim):
        raise BadActions(f"reference must be [{batch}, {action_dim}], got {tuple(found.shape)}")
    if not torch.isfinite(found).all():
        raise BadActions("the reference holds NaN or inf; check the joint states")
    return found
