"""The figures that judge any tokenizer: errors, use of its codebooks, size, failures."""

from math import log2
from typing import Any, NamedTuple

import numpy as np
import torch

from nac_ros.core.errors import BadActions, BadTokens
from nac_ros.datasets.action_chunks import ActionChunks
from nac_ros.tokenizers.base import Tokenizer
from nac_ros.tokenizers.grammar import PAD

EVALUATION_BATCH = 512


@torch.no_grad()
def evaluate(tokenizer: Tokenizer, windows: ActionChunks) -> dict[str, Any]:
    """Errors of the decoded absolute actions, codebook use and size (SPEC section 8).

    mse, l1, max_error and velocity_error (rms of first differences) are normalised by the
    training actions' minimum and maximum to [-1, 1]; per joint rms and max are in rad and m.
    """
    tokenizer.eval()
    decoded, tokens, *failures = round_trip(tokenizer, windows)
    kept = np.isfinite(decoded).all((1, 2))
    if not kept.any():
        raise BadTokens(f"tokenizer {tokenizer.name}: none of {len(kept)} chunks came back")
    error = decoded[kept] - windows.actions[kept]  # [N, H, D]
    length = float((tokens[kept] != PAD).sum(1).mean())
    normalised = error / tokenizer.absolute_normalizer.half_range
    return {
        "mse": float(np.mean(normalised**2)),
        "l1": float(np.mean(np.abs(normalised))),
        "per_joint": _per_joint(tokenizer, error),
        "codebook_use": codebook_use(tokenizer, tokens),
        "codebook_perplexity": codebook_perplexity(tokenizer, tokens),
        "tokens": length,
        "tokens_p99": float(np.percentile((tokens[kept] != PAD).sum(1), 99)),
        "bits": length * log2(tokenizer.codes_per_position),
        "params_m": tokenizer.params_m,
        "encode_failures": failures[0],
        "decode_failures": failures[1],
        "max_error": float(np.abs(normalised).max()),
        "velocity_error": float(np.sqrt(np.mean(np.diff(normalised, axis=1) ** 2))),
        "prefixes": prefix_errors(tokenizer, windows, tokens),
        "chunks": len(windows.actions),
    }


def prefix_errors(
    tokenizer: Tokenizer, windows: ActionChunks, tokens: np.ndarray
) -> list[dict[str, Any]]:
    """MSE of what the first tokens of `[N, L]` alone decode to, for every length that does."""
    rows = []
    for length in tokenizer.prefix_lengths:
        decoded = [
            tokenizer.decode_prefix(tokens[k : k + EVALUATION_BATCH, :length], reference).numpy()
            for k in range(0, len(tokens), EVALUATION_BATCH)
            for reference in [_part(windows.references, slice(k, k + EVALUATION_BATCH))]
        ]
        error = (
            np.concatenate(decoded) - windows.actions
        ) / tokenizer.absolute_normalizer.half_range
        bits = length * log2(tokenizer.codes_per_position)
        rows.append({"tokens": length, "bits": bits, "mse": float(np.mean(error**2))})
    return rows


def codebook_use(tokenizer: Tokenizer, tokens: np.ndarray) -> list[float]:
    """Share of the tokens legal together that occur in `[N, L]`, one number a codebook."""
    seen = np.zeros(tokenizer.vocab_size, bool)
    seen[np.unique(tokens[tokens >= 0])] = True
    return [float(seen[book].mean()) for book in tokenizer.grammar.codebooks]


def codebook_perplexity(tokenizer: Tokenizer, tokens: np.ndarray) -> list[float]:
    """As how many tokens, all as frequent, those of `[N, L]` count, one number a codebook."""
    frequency = np.bincount(tokens[tokens >= 0], minlength=tokenizer.vocab_size)
    numbers = []
    for book in tokenizer.grammar.codebooks:
        share = frequency[book] / max(1, frequency[book].sum())
        share = share[share > 0]
        numbers.append(float(np.exp(-(share * np.log(share)).sum())))
    return numbers


class RoundTripResult(NamedTuple):
    """Decoded chunks `[N, H, D]`, NaN where that failed; tokens `[N, L]`, padded; and how many
    chunks had no tokens, or tokens that did not decode."""

    decoded: np.ndarray
    tokens: np.ndarray
    encode_failures: int
    decode_failures: int


def round_trip(tokenizer: Tokenizer, windows: ActionChunks) -> RoundTripResult:
    """Every chunk through tokens and back, in batches; one that fails is tried by itself."""
    decoded = np.full_like(windows.actions, np.nan)
    tokens = np.full((len(decoded), tokenizer.grammar.max_tokens), PAD, np.int64)
    failures = [0, 0]
    pending = [slice(k, k + EVALUATION_BATCH) for k in range(0, len(decoded), EVALUATION_BATCH)]
    while pending:
        rows = pending.pop(0)
        reference = _part(windows.references, rows)
        try:
            said = tokenizer.encode(windows.actions[rows], reference)
            tokens[rows, : said.shape[1]] = said.numpy()
            decoded[rows] = tokenizer.decode(said, reference).numpy()
        except (BadActions, BadTokens) as error:
            first, last = rows.start, min(rows.stop, len(decoded))
            if last - first > 1:
                pending += [slice(k, k + 1) for k in range(first, last)]
            else:
                failures[isinstance(error, BadTokens)] += 1
    return RoundTripResult(decoded, tokens, *failures)


def _part(references: np.ndarray | None, rows: slice) -> np.ndarray | None:
    return None if references is None else references[rows]


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
