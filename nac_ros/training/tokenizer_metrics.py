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
    minimum and maximum of the training actions; per joint RMS and max are in rad and m. A chunk
    that cannot be encoded or decoded is counted in `failed_chunks` and scored as `hold_chunks`:
    that is what the robot does without a chunk. tokens and bits are means over the others. For
    overlap see `mean_overlap`. Raises BadTokens if no chunk can be encoded and decoded.
    """
    tokenizer.eval()
    decoded, tokens, encode_failures, decode_failures = round_trip(tokenizer, chunks)
    failed = ~np.isfinite(decoded).all((1, 2))
    if failed.all():
        raise BadTokens(
            f"tokenizer {tokenizer.name} could encode and decode none of {len(failed)} chunks"
        )
    decoded[failed] = hold_chunks(chunks.select(failed))
    error = decoded - chunks.actions  # [N, H, D]
    lengths = (tokens[~failed] != PAD).sum(1)
    normalized = error / _scale(tokenizer)
    return {
        "mse": float(np.mean(normalized**2)),
        "l1": float(np.mean(np.abs(normalized))),
        "per_joint": _per_joint(tokenizer, error),
        "codebook_use": codebook_use(tokenizer, tokens),
        "codebook_perplexity": codebook_perplexity(tokenizer, tokens),
        "overlap": mean_overlap(tokens, chunks.consecutive),
        "overlap_positions": overlap_by_position(tokens, chunks.consecutive),
        "tokens": float(lengths.mean()),
        "tokens_p99": float(np.percentile(lengths, 99)),
        "bits": float(lengths.mean()) * log2(tokenizer.codes_per_position),
        "params_m": tokenizer.params_m,
        "failed_chunks": int(failed.sum()),
        "encode_failures": encode_failures,
        "decode_failures": decode_failures,
        "max_error": float(np.abs(normalized).max()),
        "velocity_error": float(np.sqrt(np.mean(np.diff(normalized, axis=1) ** 2))),
        "prefixes": prefix_errors(tokenizer, chunks, tokens, failed),
        "chunks": len(chunks.actions),
    }


def hold_chunks(chunks: ActionChunks) -> np.ndarray:
    """Chunks `[N, H, D]` in which the arm stays where it is at their first frame.

    Without a joint state the first action of each chunk is held, the nearest known position.
    """
    first = chunks.actions[:, 0] if chunks.references is None else chunks.references
    return np.broadcast_to(first[:, None], chunks.actions.shape)


def prefix_errors(
    tokenizer: Tokenizer, chunks: ActionChunks, tokens: np.ndarray, failed: np.ndarray
) -> list[dict[str, Any]]:
    """MSE of decoding only the first tokens of `[N, L]`, for each of `prefix_lengths`.

    failed: bool `[N]`, chunks without tokens, scored as `hold_chunks`
    """
    rows = []
    coded, held = chunks.select(~failed), hold_chunks(chunks.select(failed))
    held_error = (held - chunks.actions[failed]) / _scale(tokenizer)
    for length in tokenizer.prefix_lengths:
        decoded = [
            tokenizer.decode_prefix(
                tokens[~failed][batch, :length], coded.select(batch).references
            )
            for batch in _batches(len(coded.actions))
        ]
        error = (torch.cat(decoded).cpu().numpy() - coded.actions) / _scale(tokenizer)
        mse = float(np.mean(np.concatenate([error, held_error]) ** 2))
        bits = length * log2(tokenizer.codes_per_position)
        rows.append({"tokens": length, "bits": bits, "mse": mse})
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


def mean_overlap(tokens: np.ndarray, rows: np.ndarray) -> float | None:
    """Share of equal tokens of chunks one step apart (ActionCodec, arXiv 2602.15397).

    tokens: `[N, L]`, padded; rows: int64 `[P]`, each with the chunk one step later in the next
        row (`ActionChunks.consecutive`); pairs in which a chunk has no tokens are left out
    Sequences of two lengths are compared up to the shorter one; the other tokens count as
    unequal. None without pairs.
    """
    equal, compared = _compare_pairs(tokens, rows)
    return float((equal.sum(1) / compared.sum(1)).mean()) if len(equal) else None


def overlap_by_position(tokens: np.ndarray, rows: np.ndarray) -> list[float]:
    """`mean_overlap` of each position, over the pairs of which one sequence reaches it."""
    equal, compared = _compare_pairs(tokens, rows)
    reached = compared.any(0)
    return (equal.sum(0)[reached] / compared.sum(0)[reached]).tolist()


def _compare_pairs(tokens: np.ndarray, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Bool `[P, L]`: equal tokens of each pair, and positions that at least one of both has."""
    now, later = tokens[rows], tokens[rows + 1]
    both = (now[:, 0] != PAD) & (later[:, 0] != PAD)
    compared = (now[both] != PAD) | (later[both] != PAD)
    return (now[both] == later[both]) & compared, compared


class RoundTripResult(NamedTuple):
    """Chunks after encoding and decoding.

    decoded: `[N, H, D]`, NaN for those that failed; tokens: `[N, L]`, padded
    encode_failures, decode_failures: chunks without tokens, and with tokens that do not decode to
        finite actions
    """

    decoded: np.ndarray
    tokens: np.ndarray
    encode_failures: int
    decode_failures: int


def round_trip(tokenizer: Tokenizer, chunks: ActionChunks) -> RoundTripResult:
    """Encodes and decodes all chunks in batches; the chunks of a failed batch one by one."""
    decoded = np.full_like(chunks.actions, np.nan)
    tokens = encode_chunks(tokenizer, chunks)
    coded = np.flatnonzero(tokens[:, 0] != PAD)
    pending = [coded[batch] for batch in _batches(len(coded))]
    while pending:
        rows = pending.pop(0)
        longest = int((tokens[rows] != PAD).sum(1).max())
        try:
            actions = tokenizer.decode(tokens[rows, :longest], chunks.select(rows).references)
            decoded[rows] = actions.cpu().numpy()
        except BadTokens:
            pending += [rows[k : k + 1] for k in range(len(rows)) if len(rows) > 1]
    decode_failures = int((~np.isfinite(decoded[coded]).all((1, 2))).sum())
    return RoundTripResult(decoded, tokens, len(decoded) - len(coded), decode_failures)


def encode_chunks(tokenizer: Tokenizer, chunks: ActionChunks) -> np.ndarray:
    """Tokens `[N, L]`, padded; a chunk that cannot be encoded has a row of padding."""
    tokens = np.full((len(chunks.actions), tokenizer.grammar.max_tokens), PAD, np.int64)
    pending = _batches(len(tokens))
    while pending:
        batch = pending.pop(0)
        try:
            encoded = tokenizer.encode(*chunks.select(batch))
            tokens[batch, : encoded.shape[1]] = encoded.cpu().numpy()
        except BadActions:
            size = batch.stop - batch.start
            pending += [slice(k, k + 1) for k in range(batch.start, batch.stop) if size > 1]
    return tokens


def _scale(tokenizer: Tokenizer) -> np.ndarray:
    """Half range `[D]` by which published errors are divided."""
    return tokenizer.absolute_normalizer.half_range.cpu().numpy()


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
