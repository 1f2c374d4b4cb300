"""A dense path beside encoder and decoder, begun as the data's Karhunen-Loeve transform.

What is linear about chunks need not be learned by convolutions: the path starts where principal
components already are, and is trained on with the rest. Beside each matrix a perceptron may learn
what is not linear and concerns the whole chunk.
"""

import torch
from torch import Tensor, nn

RIDGE = 1e-4  # of the mean variance, in the regression of chunks on quantized latents


class LinearPath(nn.Module):
    """Chunks `[B, H, D]` -> latent `[B, E]` and back: a matrix and a perceptron each way.

    hidden: width of the perceptrons, which say nothing at first; 0 = none
    """

    def __init__(self, horizon: int, action_dim: int, latent_dim: int, hidden: int = 0):
        super().__init__()
        self.shape, size = (horizon, action_dim), horizon * action_dim
        self.analysis, self.synthesis = nn.Linear(size, latent_dim), nn.Linear(latent_dim, size)
        self.bend_in = _perceptron(size, hidden, latent_dim) if hidden else None
        self.bend_out = _perceptron(latent_dim, hidden, size) if hidden else None

    def encode(self, actions: Tensor) -> Tensor:
        """`[B, H, D]` -> `[B, E]`."""
        samples = actions.flatten(1)
        latent = self.analysis(samples)
        return latent if self.bend_in is None else latent + self.bend_in(samples)

    def decode(self, latent: Tensor) -> Tensor:
        """`[B, E]` -> `[B, H, D]`."""
        samples = self.synthesis(latent)
        if self.bend_out is not None:
            samples = samples + self.bend_out(latent)
        return samples.unflatten(1, self.shape)

    @torch.no_grad()
    def begin(self, actions: Tensor, metric: Tensor) -> None:
        """The heaviest principal components of chunks `[N, H, D]`; an error of the latent then
        counts what `metric` `[D]` says that the square of an error counts."""
        units = metric.sqrt().repeat(self.shape[0])  # [H * D]
        rows = actions.flatten(1) * units
        mean = rows.mean(0)
        _, _, basis = torch.linalg.svd(rows - mean, full_matrices=False)
        n = min(len(basis), len(self.analysis.weight))
        self.analysis.weight.zero_()
        self.analysis.weight[:n] = basis[:n] * units
        self.analysis.bias.zero_()
        self.analysis.bias[:n] = -basis[:n] @ mean

    @torch.no_grad()
    def fit_synthesis(self, latent: Tensor, actions: Tensor) -> None:
        """Least squares from quantized latents `[N, E]` to their chunks `[N, H, D]`."""
        known, wanted = latent.double(), actions.flatten(1).double()
        means = known.mean(0), wanted.mean(0)
        known, wanted = known - means[0], wanted - means[1]
        square = known.T @ known
        ridge = RIDGE * square.diagonal().mean().clamp(min=1e-12)
        weight = torch.linalg.solve(
            square + ridge * torch.eye(len(square)).to(square), known.T @ wanted
        )
        self.synthesis.weight.copy_(weight.T)
        self.synthesis.bias.copy_(means[1] - means[0] @ weight)


def _perceptron(inputs: int, hidden: int, outputs: int) -> nn.Sequential:
    last = nn.Linear(hidden, outputs)
    nn.init.zeros_(last.weight)
    nn.init.zeros_(last.bias)
    return nn.Sequential(nn.Linear(inputs, hidden), nn.GELU(), last)
