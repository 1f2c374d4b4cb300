"""Export of a whole policy to ONNX: graphs and description, for a robot without torch."""

from pathlib import Path

import torch
from torch import Tensor

from nac_ros.codec.seanet import fold_weight_norm
from nac_ros.core.errors import ConfigError
from nac_ros.export.onnx import export_detokenizer, export_graph
from nac_ros.export.onnx_spec import (
    CONTEXT,
    DECODER,
    DENOISE,
    FOLDER,
    STEP,
    Method,
    OnnxPolicySpec,
    TokenSpec,
    write_onnx_spec,
)
from nac_ros.policies.base import Policy
from nac_ros.policies.graphs import GraphModule
from nac_ros.policies.token_policy import TokenPolicy
from nac_ros.tokenizers.base import CodebookTokenizer, Tokenizer
from nac_ros.tokenizers.grammar import FixedGrammar

FILES = {"context": CONTEXT, "step": STEP, "denoise": DENOISE}


@torch.no_grad()
def export_policy(policy: Policy, folder: Path) -> None:
    """Writes the graphs of `policy` into the bundle `folder`; weight norms of the policy are
    folded. Raises ConfigError if the policy cannot be exported."""
    (folder / FOLDER).mkdir()
    fold_weight_norm(policy.eval())
    graphs = policy.graphs()
    for name, graph in graphs.items():
        export_graph(GraphModule(policy, graph), graph, folder / FILES[name])
    method: Method = "direct"
    if "step" in graphs:
        method = "tokens"
    elif "denoise" in graphs:
        method = "denoising"
    tokens = None
    if isinstance(policy, TokenPolicy) and method == "tokens":
        tokens = _token_spec(policy)
        if not isinstance(policy.tokenizer, CodebookTokenizer) and not tokens.pieces:
            export_detokenizer(policy.tokenizer, folder / DECODER)
    normalizer = policy.normalizer
    write_onnx_spec(
        OnnxPolicySpec(
            policy=policy.describe(),
            method=method,
            observation=policy.observation_spec,
            horizon=policy.chunk_spec.horizon,
            n_action_steps=policy.config.n_action_steps,
            low=_numbers(normalizer.low),
            high=_numbers(normalizer.high),
            relative=tuple(normalizer.relative.tolist()),
            fixes_steps="denoise" in graphs and "fixed" in graphs["denoise"].inputs,
            tokens=tokens,
        ),
        folder,
    )


def _token_spec(policy: TokenPolicy) -> TokenSpec:
    tokenizer, config = policy.tokenizer, policy.config
    samplings = {
        "sampling": config.sampling,
        "candidate_sampling": config.candidate_sampling,
    }
    if isinstance(policy.grammar, FixedGrammar):
        grammar = policy.grammar
        return TokenSpec(starts=grammar.starts, stops=grammar.stops, **samplings)
    pieces, scale = _coefficients(tokenizer)
    return TokenSpec(pieces=pieces, scale=scale, **samplings)


def _coefficients(tokenizer: Tokenizer) -> tuple[tuple[tuple[int, ...], ...], float]:
    """Coefficients of each token of a BPE, and their scale."""
    if not hasattr(tokenizer, "pieces"):
        raise ConfigError(
            f"the tokens of tokenizer {tokenizer.name} have neither fixed ranges nor pieces; it "
            "has no ONNX export"
        )
    return tokenizer.pieces, tokenizer.config.scale


def _numbers(values: Tensor) -> tuple[float, ...]:
    return tuple(values.double().tolist())
