"""How long encoding and decoding take: all candidates in turns, so that load hits all alike."""

import time
from collections.abc import Callable, Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

import numpy as np
import torch

from nac_ros.datasets.action_chunks import ActionChunks
from nac_ros.export.onnx import (
    OnnxDetokenizer,
    OnnxTokenizer,
    export_detokenizer,
    export_tokenizer,
)
from nac_ros.tokenizers.base import Tokenizer

ROUNDS = {1: 100, 64: 20}  # batch -> measurements, of which the median counts


class Coder(NamedTuple):
    """encode: actions, references -> tokens; decode: tokens, references -> actions."""

    encode: Callable[[Any, Any], Any]
    decode: Callable[[Any, Any], Any]


class Parity(NamedTuple):
    """ONNX Runtime beside torch on real chunks.

    chunks: how many were encoded; unequal: of these, how many got other tokens; margin: how much
    nearer the one of two confused tokens was, the largest relative difference of squared
    distances, at the end of the sequence where tokens are searched together; decode_error: the
    largest, normalised
    """

    chunks: int
    unequal: int
    margin: float
    decode_error: float


def coders(tokenizer: Tokenizer) -> tuple[dict[str, Coder], "OnnxPair | None"]:
    """runtime -> how to encode and decode with it; ONNX Runtime for tokenizers with a network."""
    plain = Coder(tokenizer.encode, tokenizer.decode)
    if not hasattr(tokenizer, "detokenize"):
        return {"numpy": plain}, None
    pair = export_both(tokenizer)
    return {"onnx": Coder(pair.encode, pair.decode), "torch": plain}, pair


class OnnxPair(NamedTuple):
    """Both ways of one tokenizer in ONNX Runtime."""

    encode: OnnxTokenizer
    decode: OnnxDetokenizer


def export_both(tokenizer: Tokenizer) -> OnnxPair:
    """Exports to a temporary folder and loads from there, one thread each."""
    with TemporaryDirectory() as folder:
        paths = Path(folder) / "encode.onnx", Path(folder) / "decode.onnx"
        export_tokenizer(tokenizer, paths[0])
        export_detokenizer(tokenizer, paths[1])
        return OnnxPair(OnnxTokenizer(paths[0]), OnnxDetokenizer(paths[1]))


def measure(
    candidates: Mapping[Any, Coder], chunks: ActionChunks, batch: int
) -> dict[Any, tuple[float, float, float]]:
    """Candidate -> median ms to encode, decode and do both, of `batch` chunks on one thread."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    actions, references = chunks.actions[:batch], _references(chunks)[:batch]
    deeds = {}
    for key, coder in candidates.items():
        tokens = coder.encode(actions, references)
        deeds[key, "encode"] = lambda c=coder: c.encode(actions, references)
        deeds[key, "decode"] = lambda c=coder, t=tokens: c.decode(t, references)
        deeds[key, "both"] = lambda c=coder: c.decode(c.encode(actions, references), references)
    taken: dict[Any, list[float]] = {key: [] for key in deeds}
    for _ in range(ROUNDS[batch]):
        for key, deed in deeds.items():
            began = time.perf_counter()
            deed()
            taken[key].append(time.perf_counter() - began)
    torch.set_num_threads(threads)
    ms = {key: 1e3 * float(np.median(seconds)) for key, seconds in taken.items()}
    return {key: (ms[key, "encode"], ms[key, "decode"], ms[key, "both"]) for key in candidates}


def parity(tokenizer: Tokenizer, pair: OnnxPair, chunks: ActionChunks, n: int = 1000) -> Parity:
    """Compares both ways on `n` chunks spread over all."""
    rows = np.linspace(0, len(chunks.actions) - 1, min(n, len(chunks.actions))).astype(int)
    actions, references = chunks.actions[rows], _references(chunks)[rows]
    ours = tokenizer.encode(actions, references)
    theirs = torch.from_numpy(pair.encode(actions, references))
    unequal = (ours != theirs).any(1)
    difference = pair.decode(ours.numpy(), references) - tokenizer.decode(ours, references).numpy()
    normalised = tokenizer.normalize(actions, references)
    return Parity(
        chunks=len(rows),
        unequal=int(unequal.sum()),
        margin=_margin(tokenizer, normalised[unequal], ours[unequal], theirs[unequal]),
        decode_error=float(np.abs(difference / tokenizer._scale()[1].numpy()).max()),
    )


def _margin(
    tokenizer: Tokenizer, normalised: torch.Tensor, ours: torch.Tensor, theirs: torch.Tensor
) -> float:
    """How much nearer the one of two confused tokens was, at the first place they differ."""
    vectors = tokenizer.embeddings()
    if vectors is None or not len(ours):
        return 0.0
    naming, rows = tokenizer.residual_targets(normalised), torch.arange(len(ours))
    place = (ours != theirs).int().argmax(1)
    if tokenizer.uses_beam_search:
        place = torch.full_like(place, ours.shape[1] - 1)
    near, far = (
        (naming(t)[rows, place] - vectors[t[rows, place]]).square().sum(-1).double()
        for t in (ours, theirs)
    )
    return float(((far - near).abs() / near.clamp(min=1e-12)).max())


def _references(chunks: ActionChunks) -> np.ndarray:
    """References, or zeros, which absolute tokenizers ignore."""
    if chunks.references is not None:
        return chunks.references
    return np.zeros_like(chunks.actions[:, 0])
