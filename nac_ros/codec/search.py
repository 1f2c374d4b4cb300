"""Closed-loop choice of codes: by what they decode to, as speech codecs do (CELP, Schroeder 1985).

Nearest codewords, stage by stage, are not the best ones together. Through a dense path a code's
part in the decoded chunk is a row of a table, so codes can be exchanged one by one, all others
kept, while the error falls.
"""

from collections.abc import Sequence

import torch
from torch import Tensor


def tables(
    synthesis: Tensor, codebooks: Sequence[Tensor], scales: Sequence[int], n_steps: int
) -> list[Tensor]:
    """What each token adds to the decoded samples: `[K, S]` for every token of every stage.

    synthesis: `[S, T' * E]`; codebooks: `[K, E]` per stage
    """
    steps = synthesis.unflatten(1, (n_steps, -1))  # [S, T', E]
    return [
        codewords @ steps[:, first : first + scale].sum(1).T
        for codewords, scale in zip(codebooks, scales)
        for first in range(0, n_steps, scale)
    ]


def refine(wanted: Tensor, codes: Tensor, parts: Sequence[Tensor], sweeps: int) -> Tensor:
    """Codes int64 `[B, L]` whose parts come nearer to `wanted` `[B, S]`, never farther."""
    chosen = list(codes.unbind(1))
    missing = wanted - sum(part[code] for part, code in zip(parts, chosen))
    lengths = [part.square().sum(1) for part in parts]
    for _ in range(sweeps):
        for k, part in enumerate(parts):
            alone = missing + part[chosen[k]]
            chosen[k] = torch.addmm(lengths[k], alone, part.T, alpha=-2).argmin(1)
            missing = alone - part[chosen[k]]
    return torch.stack(chosen, 1)
