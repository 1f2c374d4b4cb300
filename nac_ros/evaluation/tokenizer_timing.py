"""Encoding and decoding times of tokenizers, and the difference of ONNX Runtime from torch."""

import time
from collections.abc import Callable, Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

import numpy as np
import torch

from nac_ros.core.device import ComputeDevice
from nac_ros.datasets.action_chunks import ActionChunks
from nac_ros.export.onnx import export_detokenizer, export_tokenizer
from nac_ros.export.onnx_session import OnnxDetokenizer, OnnxTokenizer
from nac_ros.tokenizers.base import Tokenizer

ROUNDS = {1: 100, 64: 20}  # batch size -> measurements; their median is reported


class TokenCodec(NamedTuple):
    """A tokenizer in one runtime.

    encode: actions, references -> tokens; decode: tokens, references -> actions
    """

    encode: Callable[[Any, Any], Any]
    decode: Callable[[Any, Any], Any]


class OnnxComparison(NamedTuple):
    """ONNX Runtime against torch on real chunks.

    chunks: number of chunks encoded; unequal: those that got other tokens
    margin: over these, the largest relative difference of the squared distances of both tokens to
        the vector that they quantize, at the first differing position (after beam search, at the
        last one); a small margin means that both choices are equally good
    decode_error: largest normalized difference of decoded actions
    """

    chunks: int
    unequal: int
    margin: float
    decode_error: float


def make_codecs(tokenizer: Tokenizer) -> dict[str, TokenCodec]:
    """Runtime -> codec; a tokenizer with a network runs in torch and ONNX Runtime (1 thread)."""
    own = TokenCodec(tokenizer.encode, tokenizer.decode)
    if not hasattr(tokenizer, "detokenize"):
        return {"numpy": own}
    with TemporaryDirectory() as folder:
        encoder, decoder = Path(folder) / "encode.onnx", Path(folder) / "decode.onnx"
        export_tokenizer(tokenizer, encoder)
        export_detokenizer(tokenizer, decoder)
        return {"onnx": TokenCodec(OnnxTokenizer(encoder), OnnxDetokenizer(decoder)), "torch": own}


def measure_times(
    codecs: Mapping[Any, TokenCodec], chunks: ActionChunks, batch: int, device: ComputeDevice
) -> dict[Any, tuple[float, float, float]]:
    """Median milliseconds to encode, decode and do both with `batch` chunks on one thread.

    The codecs take turns, so that other load on the machine affects all of them alike.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    actions, references = chunks.actions[:batch], _references(chunks)[:batch]
    calls = {}
    for key, codec in codecs.items():
        tokens = codec.encode(actions, references)
        calls[key, "encode"] = lambda c=codec: c.encode(actions, references)
        calls[key, "decode"] = lambda c=codec, t=tokens: c.decode(t, references)
        calls[key, "both"] = lambda c=codec: c.decode(c.encode(actions, references), references)
    seconds: dict[Any, list[float]] = {key: [] for key in calls}
    for _ in range(ROUNDS[batch]):
        for key, call in calls.items():
            device.synchronize()
            started = time.perf_counter()
            call()
            device.synchronize()
            seconds[key].append(time.perf_counter() - started)
    torch.set_num_threads(threads)
    ms = {key: 1e3 * float(np.median(values)) for key, values in seconds.items()}
    return {key: (ms[key, "encode"], ms[key, "decode"], ms[key, "both"]) for key in codecs}


def compare_with_onnx(
    tokenizer: Tokenizer, onnx: TokenCodec, chunks: ActionChunks, n: int = 1000
) -> OnnxComparison:
    """Encodes and decodes `n` evenly spaced chunks with torch and with ONNX Runtime."""
    rows = np.linspace(0, len(chunks.actions) - 1, min(n, len(chunks.actions))).astype(int)
    actions, references = chunks.actions[rows], _references(chunks)[rows]
    ours = tokenizer.encode(actions, references)
    theirs = torch.from_numpy(onnx.encode(actions, references)).to(ours.device)
    unequal = (ours != theirs).any(1)
    decoded = tokenizer.decode(ours, references).cpu().numpy()
    difference = onnx.decode(ours.cpu().numpy(), references) - decoded
    normalized = tokenizer.normalize(actions, references)
    return OnnxComparison(
        chunks=len(rows),
        unequal=int(unequal.sum()),
        margin=_margin(tokenizer, normalized[unequal], ours[unequal], theirs[unequal]),
        decode_error=float(
            np.abs(difference / tokenizer.normalizer.half_range.cpu().numpy()).max()
        ),
    )


def _margin(
    tokenizer: Tokenizer, normalized: torch.Tensor, ours: torch.Tensor, theirs: torch.Tensor
) -> float:
    vectors = tokenizer.embeddings()
    if vectors is None or not len(ours):
        return 0.0
    residuals = tokenizer.residual_targets(normalized)
    rows = torch.arange(len(ours), device=ours.device)
    position = (ours != theirs).int().argmax(1)
    if tokenizer.uses_beam_search:
        position = torch.full_like(position, ours.shape[1] - 1)
    near, far = (
        (residuals(t)[rows, position] - vectors[t[rows, position]]).square().sum(-1).double()
        for t in (ours, theirs)
    )
    return float(((far - near).abs() / near.clamp(min=1e-12)).max())


def _references(chunks: ActionChunks) -> np.ndarray:
    """References, or zeros, which absolute tokenizers ignore."""
    if chunks.references is not None:
        return chunks.references
    return np.zeros_like(chunks.actions[:, 0])
