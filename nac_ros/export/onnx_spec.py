"""Description of a policy that was exported to ONNX: what runs its graphs needs to know."""

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import numpy as np

from nac_ros.core import config as configs
from nac_ros.core.config import REQUIRED, check_fields, number_field, sequence_field
from nac_ros.core.errors import BundleError, ConfigError, NacError, show_text
from nac_ros.core.json_reader import read_json
from nac_ros.core.normalize import ActionNormalizer
from nac_ros.core.observation_spec import ObservationSpec
from nac_ros.core.sampling import Sampling
from nac_ros.tokenizers.grammar import BpeGrammar, FixedGrammar, Grammar

FOLDER = "onnx"  # in a bundle
SPEC, CONTEXT, STEP, DENOISE, DECODER = (
    f"{FOLDER}/{name}"
    for name in ("policy.json", "context.onnx", "step.onnx", "denoise.onnx", "decoder.onnx")
)
MAX_SPEC_BYTES = 16 << 20
MAX_TOKENS = 1 << 20

Method = Literal["tokens", "denoising", "direct"]


@dataclass(frozen=True, kw_only=True)
class TokenSpec:
    """Tokens of a policy that samples them.

    starts, stops: of a FixedGrammar, the range of tokens at each position; empty without
    pieces: of a BPE, the coefficients of each token; empty without
    scale: of the coefficients before they were rounded
    sampling, candidate_sampling: see TokenPolicyConfig
    """

    sampling: Sampling
    candidate_sampling: Sampling
    starts: tuple[int, ...] = sequence_field((), 0, MAX_TOKENS)
    stops: tuple[int, ...] = sequence_field((), 0, MAX_TOKENS)
    pieces: tuple[tuple[int, ...], ...] = sequence_field((), 0, MAX_TOKENS)
    scale: float = 1.0

    def __post_init__(self) -> None:
        check_fields(self)

    def grammar(self, chunk_size: int) -> Grammar:
        """The grammar of the sequences; chunk_size: H D, the coefficients of a BPE's chunk."""
        if self.pieces:
            return BpeGrammar(np.array([len(piece) for piece in self.pieces]), chunk_size)
        return FixedGrammar(list(self.starts), list(self.stops))


@dataclass(frozen=True, kw_only=True)
class OnnxPolicySpec:
    """An exported policy.

    policy: a few words for messages
    method: the graph `context` gives the first logits of the tokens, the context vectors of a
        denoising policy, or the chunk
    fixes_steps: whether the graph `denoise` takes committed steps
    low, high, relative: of the ActionNormalizer of the chunks
    """

    policy: str
    method: Method
    observation: ObservationSpec
    horizon: int = number_field(REQUIRED, 1)
    n_action_steps: int = number_field(REQUIRED, 1)
    low: tuple[float, ...]
    high: tuple[float, ...]
    relative: tuple[bool, ...]
    fixes_steps: bool = False
    tokens: TokenSpec | None = field(default=None)

    def __post_init__(self) -> None:
        check_fields(self)
        lengths = {len(self.low), len(self.high), len(self.relative)}
        if lengths != {self.observation.action_dim}:
            raise ConfigError(
                f"low, high and relative have {sorted(lengths)} entries for "
                f"{self.observation.action_dim} columns"
            )
        if (self.method == "tokens") != (self.tokens is not None):
            raise ConfigError(f"method {self.method} does not fit the description of tokens")

    @property
    def normalizer(self) -> ActionNormalizer:
        """The normalizer with numpy arrays."""
        low, high = (np.array(values, np.float32) for values in (self.low, self.high))
        return ActionNormalizer(low, high, np.array(self.relative), any(self.relative))

    @property
    def chunk_shape(self) -> tuple[int, int]:
        """Steps and columns, (H, D)."""
        return self.horizon, self.observation.action_dim


def write_onnx_spec(spec: OnnxPolicySpec, folder: Path) -> None:
    """Writes it into the bundle `folder`."""
    (folder / SPEC).write_text(json.dumps(configs.to_plain(spec)) + "\n")


def read_onnx_spec(folder: Path) -> OnnxPolicySpec:
    """That of the bundle `folder`; raises BundleError."""
    path = folder / SPEC
    content = read_json(path, BundleError, MAX_SPEC_BYTES)
    try:
        spec = configs.build(OnnxPolicySpec, content, str(path))
        if spec.tokens is not None:
            spec.tokens.grammar(spec.horizon * spec.observation.action_dim)
    except (NacError, TypeError, ValueError) as error:
        raise BundleError(
            f"{path} does not describe a policy: {show_text(error, 400)}; export the bundle again"
        ) from error
    return spec
