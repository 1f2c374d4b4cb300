"""Metrics of any tokenizer: reconstruction errors, codebook use, size, failures."""

from math import log2
from typing import Any, NamedTuple

import numpy as np
import torch
from scipy.special import entr

from nac_ros.core.errors import BadActions, BadTokens
from nac_ros.datasets.action_chunks import ActionChunks
from nac_ros.tokenizers.base import Tokenizer
from nac_ros.tokenizers.grammar import PAD

EVALUATION_BATCH = 512


@torch.no_grad()
def evaluate(tokenizer: Tokenizer, chunks: ActionChunks) -> dict[str, Any]:
    """Errors of the decoded absolute actions, codebook use and size.

    mse, l1, max_error and velocity_error (RMS of first differences) are normalized to [-1, 1] by
    minimum and maximum of the training actions; per joint RMS and max are in rad and m. Raises
    BadTokens if no chunk can be encoded and decoded.
    """
    tokenizer.eval()
    decoded, tokens, encode_failures, decode_failures = round_trip(tokenizer, chunks)
    valid = np.isfinite(decoded).all((1, 2))
    if not valid.any():
        raise BadTokens(
            f"tokenizer {tokenizer.name}: none of {len(valid)} chunks could be encoded and decoded"
        )
    error = decoded[valid] - chunks.actions[valid]  # [N, H, D]
    lengths = (tokens[valid] != PAD).sum(1)
    normalized = error / tokenizer.absolute_normalizer.half_range.cpu().numpy()
    return {
        "mse": float(np.mean(normalized**2)),
        "l1": float(np.mean(np.abs(normalized))),
        "per_joint": _per_joint(tokenizer, error),
        "codebook_use": codebook_use(tokenizer, tokens),
        "codebook_perplexity": codebook_perplexity(tokenizer, tokens),
        "tokens": float(lengths.mean()),
        "tokens_p99": float(np.percentile(lengths, 99)),
        "bits": float(lengths.mean()) * log2(tokenizer.codes_per_position),
        "params_m": tokenizer.params_m,
        "encode_failures": encode_failures,
        "decode_failures": decode_failures,
        "max_error": float(np.abs(normalized).max()),
        "velocity_error": float(np.sqrt(np.mean(np.diff(normalized, axis=1) ** 2))),
        "prefixes": prefix_errors(tokenizer, chunks, tokens),
        "chunks": len(chunks.actions),
    }


def prefix_errors(
    tokenizer: Tokenizer, chunks: ActionChunks, tokens: np.ndarray
) -> list[dict[str, Any]]:
    """MSE of decoding only the first tokens of `[N, L]`, for each of `prefix_lengths`."""
    rows = []
    for length in tokenizer.prefix_lengths:
        decoded = [
            tokenizer.decode_prefix(tokens[batch, :length], chunks.select(batch).references)
            for batch in _batches(len(tokens))
        ]
        error = torch.cat(decoded).numpy() - chunks.actions
        normalized = error / tokenizer.absolute_normalizer.half_range.cpu().numpy()
        bits = length * log2(tokenizer.codes_per_position)
        rows.append({"tokens": length, "bits": bits, "mse": float(np.mean(normalized**2))})
    return rows


def codebook_use(tokenizer: Tokenizer, tokens: np.ndarray) -> list[float]:
    """Share of each codebook's tokens that occur in `[N, L]`."""
    used = np.zeros(tokenizer.vocab_size, bool)
    used[np.unique(tokens[tokens >= 0])] = True
    return [float(used[codebook].mean()) for codebook in tokenizer.grammar.codebooks]


def codebook_perplexity(tokenizer: Tokenizer, tokens: np.ndarray) -> list[float]:
    """Exponential of the entropy of each codebook's tokens in `[N, L]`."""
    frequency = np.bincount(tokens[tokens >= 0], minlength=tokenizer.vocab_size)
    counts = [frequency[codebook] for codebook in tokenizer.grammar.codebooks]
    return [float(np.exp(entr(count / max(1, count.sum())).sum())) for count in counts]


class RoundTripResult(NamedTuple):
    """Chunks after encoding and decoding.

    decoded: `[N, H, D]`, NaN for those that failed; tokens: `[N, L]`, padded
    encode_failures, decode_failures: chunks without tokens, and with tokens that do not decode
    """

    decoded: np.ndarray
    tokens: np.ndarray
    encode_failures: int
    decode_failures: int


def round_trip(tokenizer: Tokenizer, chunks: ActionChunks) -> RoundTripResult:
    """Encodes and decodes all chunks in batches; the chunks of a failed batch one by one."""
    decoded = np.full_like(chunks.actions, np.nan)
    tokens = np.full((len(decoded), tokenizer.grammar.max_tokens), PAD, np.int64)
    failures = [0, 0]
    pending = _batches(len(decoded))
    while pending:
        batch = pending.pop(0)
        actions, reference = chunks.select(batch)
        try:
            encoded = tokenizer.encode(actions, reference)
            tokens[batch, : encoded.shape[1]] = encoded.numpy()
            decoded[batch] = tokenizer.decode(encoded, reference).numpy()
        except (BadActions, BadTokens) as error:
            if batch.stop - batch.start > 1:
                pending += [slice(k, k + 1) for k in range(batch.start, batch.stop)]
            else:
                failures[isinstance(error, BadTokens)] += 1
    return RoundTripResult(decoded, tokens, *failures)


def _batches(n: int) -> list[slice]:
    starts = range(0, n, EVALUATION_BATCH)
    return [slice(start, min(start + EVALUATION_BATCH, n)) for start in starts]


def _per_joint(tokenizer: Tokenizer, error: np.ndarray) -> list[dict[str, Any]]:
    config = tokenizer.config
    dim = config.action_dim
    names = config.names or tuple(f"dim{i}" for i in range(dim))
    units = config.units or ("",) * dim
    rms, peak = np.sqrt(np.mean(error**2, (0, 1))), np.abs(error).max((0, 1))
    return [
        {"name": names[i], "unit": units[i], "rms": float(rms[i]), "max": float(peak[i])}
        for i in range(dim)
    ]
