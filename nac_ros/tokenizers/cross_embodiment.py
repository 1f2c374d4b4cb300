"""Several robots over one NAC: each has its own first and last layers, all share the tokens.

No dimension is padded: what depends on a robot's D is its own, everything between is shared. Each
member is an ordinary tokenizer, saved, exported and driven like any other.
"""

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from nac_ros.codec.model import Codec
from nac_ros.core.errors import ConfigError
from nac_ros.tokenizers.factory import make_tokenizer
from nac_ros.tokenizers.nac import KMEANS_CHUNKS, Nac

SHARED = (
    "quantizer", "decoder.embed", "decoder.position", "decoder.norm", "decoder.blocks",
    "decoder.final_norm",
)  # fmt: skip


def make_cross_embodiment(
    facts: Mapping[str, Mapping[str, Any]], preset: str = "small", **config: Any
) -> dict[str, Nac]:
    """Robot name -> its NAC; `facts` of each: horizon, action_dim, names, units, relative, ...

    Raises ConfigError where the robots' chunks come to different numbers of tokens.
    """
    if len(facts) < 2:
        raise ConfigError(f"a family has at least 2 robots, got {', '.join(facts) or 'none'}")
    family: dict[str, Nac] = {}
    for name, known in facts.items():
        made = make_tokenizer("nac", preset, **{**config, **known, "embodiment": name})
        assert isinstance(made, Nac)
        family[name] = made
    share_parameters(family)
    return family


def share_parameters(family: Mapping[str, Nac]) -> None:
    """Makes all members use the shared modules of the first."""
    (first, owner), *others = family.items()
    for name, member in others:
        ours, theirs = owner.config.tokens_per_scale, member.config.tokens_per_scale
        if ours != theirs:
            raise ConfigError(
                f"chunks of {first} come to {ours} tokens a scale, of {name} to {theirs}; choose "
                "horizons or ratios that agree, or layout=channels"
            )
        for path in (*_shared(owner.codec), *_inner_layers(owner.codec)):
            _put(member.codec, path, owner.codec.get_submodule(path))


@torch.no_grad()
def begin_codes(family: Mapping[str, Nac], chunks: Mapping[str, torch.Tensor], seed: int) -> None:
    """k-means of the shared codebooks over the normalised chunks `[N, H, D]` of all robots."""
    count = KMEANS_CHUNKS // len(chunks)
    some = {
        name: rows[torch.linspace(0, len(rows) - 1, count).long()] for name, rows in chunks.items()
    }
    latents = {name: family[name].codec.latent(rows) for name, rows in some.items()}
    quantizer = next(iter(family.values())).codec.quantizer
    quantizer.initialise(torch.cat(list(latents.values())), seed)
    for name, rows in some.items():
        family[name].codec.end_path(rows)


def _shared(codec: Codec) -> tuple[str, ...]:
    return SHARED if codec.path is None else (*SHARED, "join", "divide")


def _inner_layers(codec: Codec) -> list[str]:
    return [f"encoder.layers.{k}" for k in range(1, len(codec.encoder.layers))]


def _put(codec: nn.Module, path: str, module: nn.Module) -> None:
    parent, _, name = path.rpartition(".")
    setattr(codec.get_submodule(parent), name, module)
