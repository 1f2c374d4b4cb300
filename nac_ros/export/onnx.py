"""Export of tokenizer encoders and decoders to ONNX."""

import contextlib
import io
import logging
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from nac_ros.codec.seanet import fold_weight_norm
from nac_ros.core.errors import ConfigError
from nac_ros.export.onnx_session import OnnxDetokenizer
from nac_ros.policies.graphs import Graph
from nac_ros.tokenizers.base import Tokenizer
from nac_ros.tokenizers.grammar import random_sequences

OPSET = 18
MAX_BATCH = 4096
TOLERANCE = 1e-5  # normalized difference between ONNX Runtime and torch


class _Tokenizer(nn.Module):
    """Actions float32 `[B, H, D]`, reference float32 `[B, D]` -> tokens int64 `[B, L]`."""

    def __init__(self, tokenizer: Tokenizer):
        super().__init__()
        self.tokenizer = tokenizer
        normalizer = tokenizer.normalizer
        centre, half_range = normalizer.centre, normalizer.half_range
        self.register_buffer("centre", centre)
        self.register_buffer("half_range", half_range)
        self.register_buffer("mask", tokenizer.relative.float())

    def forward(self, actions: Tensor, reference: Tensor) -> Tensor:
        shifted = actions - (reference * self.mask)[:, None]
        return self.tokenizer._encode((shifted - self.centre) / self.half_range)


class _Detokenizer(_Tokenizer):
    """Tokens int64 `[B, L]`, reference float32 `[B, D]` -> actions float32 `[B, H, D]`."""

    def forward(self, tokens: Tensor, reference: Tensor) -> Tensor:
        normalized = self.tokenizer._decode(tokens)
        return normalized * self.half_range + self.centre + (reference * self.mask)[:, None]


def export_tokenizer(tokenizer: Tokenizer, path: Path) -> None:
    """Writes a graph with inputs `actions`, `reference`, output `tokens` and a dynamic batch."""
    copy, chunks, reference = _folded(tokenizer)
    _export(_Tokenizer(copy), ("actions", "reference", "tokens"), (chunks, reference), path)


def export_detokenizer(tokenizer: Tokenizer, path: Path) -> None:
    """Writes a graph with inputs `tokens`, `reference`, output `actions` [rad or m] and a dynamic
    batch."""
    copy, _, reference = _folded(tokenizer)
    tokens = random_sequences(tokenizer.grammar, len(reference), np.random.default_rng(0))
    example = (torch.from_numpy(tokens), reference)
    _export(_Detokenizer(copy), ("tokens", "reference", "actions"), example, path)


def _folded(tokenizer: Tokenizer) -> tuple[Tokenizer, Tensor, Tensor]:
    """A copy with weight norm folded, and zeros as chunks `[2, H, D]` and references `[2, D]`."""
    if not tokenizer.decodes_in_tensors:
        raise ConfigError(
            f"tokenizer {tokenizer.name} has no network to export; it decodes without ONNX"
        )
    copy = type(tokenizer)(tokenizer.config, tokenizer.preset)
    copy.load_state_dict(tokenizer.state_dict())
    fold_weight_norm(copy.eval())
    config = tokenizer.config
    chunks = torch.zeros(2, config.horizon, config.action_dim)
    return copy, chunks, torch.zeros(2, config.action_dim)


def export_graph(module: nn.Module, graph: Graph, path: Path) -> None:
    """Writes a module that takes the tensors of `graph` by name."""
    batch = torch.export.Dim("batch", min=1, max=MAX_BATCH)
    shapes = {name: {} if name in graph.constant else {0: batch} for name in graph.inputs}
    names = (list(graph.inputs), list(graph.outputs))
    _write(module, {"tensors": graph.inputs}, {"tensors": shapes}, names, path)


def _export(
    module: nn.Module, names: tuple[str, str, str], example: tuple[Tensor, Tensor], path: Path
) -> None:
    """names: of the two inputs and the output; their first axis is dynamic."""
    batch = torch.export.Dim("batch", min=1, max=MAX_BATCH)
    shapes = {name: {0: batch} for name in names[:2]}
    _write(module, dict(zip(names, example)), shapes, (list(names[:2]), list(names[2:])), path)


def _write(
    module: nn.Module,
    example: dict[str, Any],
    dynamic_shapes: dict[str, Any],
    names: tuple[list[str], list[str]],
    path: Path,
) -> None:
    """example: arguments of `forward`; names: of the inputs and outputs of the graph"""
    with _quiet():
        program = torch.onnx.export(
            module.eval(),
            kwargs=example,
            input_names=names[0],
            output_names=names[1],
            dynamic_shapes=dynamic_shapes,
            opset_version=OPSET,
            dynamo=True,
        )
        _remove_metadata(program.model)
        program.save(str(path), external_data=False)


def max_onnx_error(tokenizer: Tokenizer, onnx: OnnxDetokenizer, seed: int = 0) -> float:
    """Largest normalized difference between ONNX and torch on 64 random legal sequences."""
    tokens = random_sequences(tokenizer.grammar, 64, np.random.default_rng(seed))
    reference = np.zeros((64, tokenizer.config.action_dim), np.float32)
    difference = onnx(tokens, reference) - tokenizer.decode(tokens, reference).cpu().numpy()
    return float(np.abs(difference / tokenizer.normalizer.half_range.cpu().numpy()).max())


def _remove_metadata(model) -> None:
    """Removes stack traces, which name folders of the exporting machine."""
    for node in model.graph.all_nodes():
        node.metadata_props.clear()


@contextlib.contextmanager
def _quiet():
    """Silences the exporter's logging, output and warnings; errors are still raised."""
    logging.disable(logging.WARNING)
    try:
        with contextlib.redirect_stdout(io.StringIO()), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(logging.NOTSET)
