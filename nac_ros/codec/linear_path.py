"""Linear analysis and synthesis of whole chunks, initialized by PCA (Karhunen-Loeve).

The matrices start at the principal components of the chunks. An MLP next to each matrix learns
nonlinear structure of the whole chunk.
"""

import torch
from torch import Tensor, nn

RIDGE = 1e-4  # relative to the latents' mean variance, in the regression of chunks on latents


class LinearPath(nn.Module):
    """Chunks `[B, H, D]` -> latent `[B, E]` and back: a matrix and an MLP in each direction.

    encoder_hidden, decoder_hidden: width of each MLP, whose output starts at zero; 0 = no MLP
    """

    def __init__(
        self,
        horizon: int,
        action_dim: int,
        latent_dim: int,
        encoder_hidden: int = 0,
        decoder_hidden: int = 0,
    ):
        super().__init__()
        self.shape, size = (horizon, action_dim), horizon * action_dim
        self.analysis, self.synthesis = nn.Linear(size, latent_dim), nn.Linear(latent_dim, size)
        self.analysis_mlp = _mlp(size, encoder_hidden, latent_dim) if encoder_hidden else None
        self.synthesis_mlp = _mlp(latent_dim, decoder_hidden, size) if decoder_hidden else None

    def encode(self, actions: Tensor) -> Tensor:
        """`[B, H, D]` -> `[B, E]`."""
        samples = actions.flatten(1)
        latent = self.analysis(samples)
        return latent if self.analysis_mlp is None else latent + self.analysis_mlp(samples)

    def decode(self, latent: Tensor) -> Tensor:
        """`[B, E]` -> `[B, H, D]`."""
        samples = self.synthesis(latent)
        if self.synthesis_mlp is not None:
            samples = samples + self.synthesis_mlp(latent)
        return samples.unflatten(1, self.shape)

    @torch.no_grad()
    def init_from_pca(self, actions: Tensor, mse_weights: Tensor) -> None:
        """Sets the analysis matrix to the first principal components of chunks `[N, H, D]`.

        mse_weights: `[D]`, weights of the squared error. Dimensions are scaled by their roots
            before the PCA, so squared distances between latents are weighted errors.
        """
        scale = mse_weights.sqrt().repeat(self.shape[0])  # [H * D]
        rows = actions.flatten(1) * scale
        mean = rows.mean(0)
        _, _, basis = torch.linalg.svd(rows - mean, full_matrices=False)
        n = min(len(basis), len(self.analysis.weight))
        self.analysis.weight.zero_()
        self.analysis.weight[:n] = basis[:n] * scale
        self.analysis.bias.zero_()
        self.analysis.bias[:n] = -basis[:n] @ mean

    @torch.no_grad()
    def fit_synthesis(self, latent: Tensor, actions: Tensor) -> None:
        """Ridge regression from quantized latents `[N, E]` to their chunks `[N, H, D]`."""
        x, y = latent.double(), actions.flatten(1).double()
        x_mean, y_mean = x.mean(0), y.mean(0)
        x, y = x - x_mean, y - y_mean
        gram = x.T @ x
        ridge = RIDGE * gram.diagonal().mean().clamp(min=1e-12)
        weight = torch.linalg.solve(
            gram + ridge * torch.eye(len(gram), dtype=gram.dtype, device=gram.device), x.T @ y
        )
        self.synthesis.weight.copy_(weight.T)
        self.synthesis.bias.copy_(y_mean - x_mean @ weight)


def _mlp(inputs: int, hidden: int, outputs: int) -> nn.Sequential:
    last = nn.Linear(hidden, outputs)
    nn.init.zeros_(last.weight)
    nn.init.zeros_(last.bias)
    return nn.Sequential(nn.Linear(inputs, hidden), nn.GELU(), last)
