"""Policies that predict normalized actions without tokens; they own their normalizer."""

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch

from nac_ros.core.chunk_spec import ChunkSpec
from nac_ros.core.errors import BundleError
from nac_ros.core.normalize import ActionNormalizer
from nac_ros.policies.base import Policy, PolicyConfig


@dataclass(frozen=True, kw_only=True)
class DirectPolicyConfig(PolicyConfig):
    """chunk_spec: shape and columns of the predicted chunks"""

    chunk_spec: ChunkSpec


class DirectPolicy(Policy):
    """A policy without tokenizer."""

    Config = DirectPolicyConfig
    takes_tokenizer = False

    def __init__(self, config: DirectPolicyConfig, preset: str, chunk_spec: ChunkSpec):
        super().__init__(config, preset, chunk_spec)
        for name in ("action_low", "action_high", "absolute_low", "absolute_high"):
            self.register_buffer(name, torch.zeros(chunk_spec.action_dim))
        relative = torch.tensor(chunk_spec.relative_columns)
        self.register_buffer("relative", relative, persistent=False)

    @property
    def normalizer(self) -> ActionNormalizer:
        is_relative = any(self.chunk_spec.relative)
        return ActionNormalizer(self.action_low, self.action_high, self.relative, is_relative)

    @property
    def absolute_normalizer(self) -> ActionNormalizer:
        none = torch.zeros_like(self.relative)
        return ActionNormalizer(self.absolute_low, self.absolute_high, none, False)

    @torch.no_grad()
    def fit_actions(self, actions: np.ndarray, references: np.ndarray) -> None:
        columns, own = self.chunk_spec.relative_columns, self.chunk_spec.normalizer
        found = ActionNormalizer.fit(actions, references, columns, own)
        absolute = ActionNormalizer.fit(actions, config=replace(own, range="minmax"))
        for prefix, normalizer in (("action", found), ("absolute", absolute)):
            getattr(self, f"{prefix}_low").copy_(torch.from_numpy(normalizer.low))
            getattr(self, f"{prefix}_high").copy_(torch.from_numpy(normalizer.high))

    def check_loaded(self, path: Path) -> None:
        if not bool((self.action_low <= self.action_high).all()):
            raise BundleError(f"{path}: action_low is above action_high; export it again")
