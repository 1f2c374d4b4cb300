"""One NAC for several robots: shared tokens and inner layers, first and last layers per robot.

No dimension is padded: layers whose shape depends on a robot's D belong to that robot, all others
are shared. Each member is an ordinary tokenizer that is saved, exported and used like any other.
"""

from collections.abc import Mapping
from typing import Any

import torch

from nac_ros.codec.model import Codec
from nac_ros.core.errors import ConfigError
from nac_ros.tokenizers.factory import make_tokenizer
from nac_ros.tokenizers.nac import KMEANS_CHUNKS, Nac

SHARED = (
    "quantizer",
    *(f"decoder.{part}" for part in ("embed", "position", "norm", "blocks", "final_norm")),
)


def make_cross_embodiment(
    robots: Mapping[str, Mapping[str, Any]], preset: str = "small", **config: Any
) -> dict[str, Nac]:
    """Robot name -> its NAC; `robots`: horizon, action_dim, names, units, relative, ... of each.

    Raises ConfigError where the robots' chunks have different numbers of tokens.
    """
    if len(robots) < 2:
        raise ConfigError(f"sharing a codec needs at least 2 robots, got {', '.join(robots)}")
    members: dict[str, Nac] = {}
    for name, own in robots.items():
        member = make_tokenizer("nac", preset, **{**config, **own, "embodiment": name})
        assert isinstance(member, Nac)
        members[name] = member
    share_parameters(members)
    return members


def share_parameters(members: Mapping[str, Nac]) -> None:
    """Replaces the shared modules of all members by those of the first."""
    (first, owner), *others = members.items()
    for name, member in others:
        ours, theirs = owner.config.tokens_per_scale, member.config.tokens_per_scale
        if ours != theirs:
            raise ConfigError(
                f"chunks of {first} have {ours} tokens per scale, those of {name} {theirs}; "
                "choose horizons or ratios that agree"
            )
        for path in _shared_modules(owner.codec):
            parent, _, child = path.rpartition(".")
            shared = owner.codec.get_submodule(path)
            setattr(member.codec.get_submodule(parent), child, shared)


@torch.no_grad()
def init_shared_codebooks(
    members: Mapping[str, Nac], chunks: Mapping[str, torch.Tensor], seed: int
) -> None:
    """k-means of the shared codebooks over the normalized chunks `[N, H, D]` of all robots."""
    count = KMEANS_CHUNKS // len(chunks)
    samples = {
        name: rows[torch.linspace(0, len(rows) - 1, count, device=rows.device).long()]
        for name, rows in chunks.items()
    }
    latents = [members[name].latent(rows) for name, rows in samples.items()]
    quantizer = next(iter(members.values())).quantizer
    quantizer.init_codebooks(torch.cat(latents), seed)


def _shared_modules(codec: Codec) -> tuple[str, ...]:
    """Paths of the modules whose shape does not depend on a robot's D."""
    inner = (f"encoder.layers.{k}" for k in range(1, len(codec.encoder.layers)))
    return (*SHARED, *inner)
