"""A dense path beside encoder and decoder, begun as the data's Karhunen-Loeve transform.

What is linear about chunks need not be learned by convolutions: the path starts where principal
components, dealt out to the tokens by reverse water-filling (Cover and Thomas, section 10.3.3),
already are, and is trained on with the rest. Beside each matrix a perceptron may learn what is not
linear and concerns the whole chunk, at an eighth of what a convolution over T' = 8 steps costs.
"""

from collections.abc import Sequence
from math import log2

import torch
from torch import Tensor, nn

LEAST_BITS = 1.0  # a component that would get fewer is left to the networks
RIDGE = 1e-4  # of the mean variance, in the regression of chunks on quantized latents


class DensePath(nn.Module):
    """Chunks `[B, H, D]` -> latent `[B, E, T']` and back: a matrix and a perceptron each way.

    hidden: width of the perceptrons, which say nothing at first; 0 = none
    """

    def __init__(
        self, horizon: int, action_dim: int, latent_dim: int, n_steps: int, hidden: int = 0
    ):
        super().__init__()
        self.shape, self.n_steps = (horizon, action_dim), n_steps
        size, latents = horizon * action_dim, latent_dim * n_steps
        self.analysis, self.synthesis = nn.Linear(size, latents), nn.Linear(latents, size)
        self.register_buffer("units", torch.ones(size))  # of samples, for what errors count
        self.bend_in = _perceptron(size, hidden, latents) if hidden else None
        self.bend_out = _perceptron(latents, hidden, size) if hidden else None

    def encode(self, actions: Tensor) -> Tensor:
        """`[B, H, D]` -> `[B, E, T']`."""
        samples = actions.flatten(1)
        latents = self.analysis(samples)
        if self.bend_in is not None:
            latents = latents + self.bend_in(samples)
        return latents.unflatten(1, (self.n_steps, -1)).transpose(1, 2)

    def decode(self, latent: Tensor) -> Tensor:
        """`[B, E, T']` -> `[B, H, D]`."""
        samples = flat(latent)
        actions = self.synthesis(samples)
        if self.bend_out is not None:
            actions = actions + self.bend_out(samples)
        return actions.unflatten(1, self.shape)

    @torch.no_grad()
    def begin(
        self, actions: Tensor, metric: Tensor, scales: Sequence[int], bits: float
    ) -> list[int]:
        """Principal components of chunks `[N, H, D]`, dealt out to the tokens of every stage.

        metric: `[D]`, what the square of an error counts; bits: of one token
        Returns how many channels have been used up to the end of each stage.
        """
        units = metric.sqrt().repeat(self.shape[0])  # [H * D]
        self.units.copy_(units)
        rows = actions.flatten(1) * units
        mean = rows.mean(0)
        _, spread, basis = torch.linalg.svd(rows - mean, full_matrices=False)
        stages = deal((spread.square() / len(rows)).tolist(), scales, self.n_steps, bits)
        weight = torch.zeros_like(self.analysis.weight).view(self.n_steps, -1, len(units))
        first, ends = 0, []
        for groups, scale in zip(stages, scales):
            for step in range(self.n_steps):
                for channel, k in enumerate(groups[step // scale], first):
                    if channel < weight.shape[1]:
                        weight[step, channel] = basis[k] / scale**0.5  # said at `scale` steps
            first += max(map(len, groups))
            ends.append(min(first, weight.shape[1]))
        self.analysis.weight.copy_(weight.flatten(0, 1) * units)
        self.analysis.bias.copy_(-weight.flatten(0, 1) @ mean)
        return ends

    @torch.no_grad()
    def fit_synthesis(self, latent: Tensor, actions: Tensor) -> None:
        """Least squares from quantized latents `[N, E, T']` to their chunks `[N, H, D]`."""
        known, wanted = flat(latent).double(), actions.flatten(1).double()
        means = known.mean(0), wanted.mean(0)
        known, wanted = known - means[0], wanted - means[1]
        square = known.T @ known
        ridge = RIDGE * square.diagonal().mean().clamp(min=1e-12)
        weight = torch.linalg.solve(square + ridge * torch.eye(len(square)), known.T @ wanted)
        self.synthesis.weight.copy_(weight.T)
        self.synthesis.bias.copy_(means[1] - means[0] @ weight)


def deal(
    variances: Sequence[float], scales: Sequence[int], n_steps: int, bits: float
) -> list[list[list[int]]]:
    """Which components each token names: stages of groups of indices into sorted `variances`.

    A stage takes what the bits up to its end pay for and no stage before has taken.
    """
    stages, taken, said = [], 0, 0.0
    for scale in scales:
        n_groups = n_steps // scale
        said += n_groups * bits
        level = water_level(variances, said)
        worth = [0.5 * log2(max(v, 1e-12) / level) for v in variances]
        end = max(taken, sum(share >= LEAST_BITS for share in worth))
        stages.append(_balanced(range(taken, end), worth, n_groups))
        taken = end
    return stages


def water_level(variances: Sequence[float], bits: float) -> float:
    """The error of each component at which `bits` are used up by reverse water-filling."""
    low, high = 1e-12, max(*variances, 1e-12)
    for _ in range(80):
        level = (low * high) ** 0.5
        used = sum(0.5 * log2(v / level) for v in variances if v > level)
        low, high = (level, high) if used > bits else (low, level)
    return high


def _balanced(members: range, worth: Sequence[float], n_groups: int) -> list[list[int]]:
    """Groups that are asked for about as many bits each."""
    groups: list[list[int]] = [[] for _ in range(n_groups)]
    asked = [0.0] * n_groups
    for k in members:
        least = asked.index(min(asked))
        groups[least].append(k)
        asked[least] += worth[k]
    return groups


def _perceptron(inputs: int, hidden: int, outputs: int) -> nn.Sequential:
    last = nn.Linear(hidden, outputs)
    nn.init.zeros_(last.weight)
    nn.init.zeros_(last.bias)
    return nn.Sequential(nn.Linear(inputs, hidden), nn.GELU(), last)


def flat(latent: Tensor) -> Tensor:
    """As the matrices take it."""
    return latent.transpose(1, 2).flatten(1)  # [B, E, T'] -> [B, T' * E]
