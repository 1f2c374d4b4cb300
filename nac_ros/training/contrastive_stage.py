"""A first codebook of tokens that change slowly: trained by a time-contrastive term, then frozen.

Chunks that start one step apart nearly agree, but a residual quantizer trained for the error alone
often gives them different tokens, which are hard to predict (ActionCodec, arXiv 2602.15397). Here
encoder and first codebook are trained alone, with InfoNCE (arXiv 1807.03748): the latents of
chunks one step apart attract, those of other chunks repel. Both are then frozen, and decoder and
residual codebooks are trained on what they leave.
"""

import torch
from torch import Tensor
from torch.nn import functional as F

from nac_ros.codec.quantizer import ResidualVectorQuantizer, pool
from nac_ros.core.errors import ConfigError
from nac_ros.tokenizers.base import ResidualTokenizer, Tokenizer


class FirstStage:
    """Encoder and first codebook of a tokenizer with residual codebooks, one for each stage."""

    def __init__(self, tokenizer: Tokenizer):
        """Raises ConfigError unless the tokenizer has such codebooks, at least two."""
        quantizer = getattr(tokenizer, "quantizer", None)
        if not isinstance(quantizer, ResidualVectorQuantizer) or len(quantizer.codebooks) < 2:
            raise ConfigError(
                f"contrastive_share needs a tokenizer with a codebook for each residual stage, "
                f"such as nac and vqvla; {tokenizer.name} has none"
            )
        assert isinstance(tokenizer, ResidualTokenizer)
        self._tokenizer, self._quantizer = tokenizer, quantizer

    def train_alone(self) -> None:
        """Decodes from the first stage only, from now on."""
        self._quantizer.active_stages = 1

    def freeze(self, chunks: Tensor) -> None:
        """Keeps first codebook and encoder as they are, and trains all other stages from now on.

        chunks: normalized, `[B, H, D]`; the parameters on which their latent depends are frozen
        """
        parameters = [p for p in self._tokenizer.parameters() if p.requires_grad]
        latent = self._tokenizer.latent(chunks)
        gradients = torch.autograd.grad(latent.sum(), parameters, allow_unused=True)
        for parameter, gradient in zip(parameters, gradients):
            parameter.requires_grad_(gradient is None)
        self._quantizer.codebooks[0].frozen = True
        self._quantizer.active_stages = len(self._quantizer.codebooks)

    def contrastive_loss(self, chunks: Tensor, rows: Tensor, temperature: float) -> Tensor:
        """InfoNCE of normalized chunks `[N, H, D]` at rows `[B]` and those in the next rows, one
        step later, both ways. Rows less than H apart show overlapping motion: their chunks
        neither attract nor repel."""
        first, second = self._embed(chunks[rows]), self._embed(chunks[rows + 1])
        similarity = first @ second.T / temperature  # [B, B]
        own = torch.arange(len(rows), device=chunks.device)
        near = (rows[:, None] - rows).abs() < chunks.shape[1]
        near = near.to(chunks.device) & (own[:, None] != own)
        similarity = similarity.masked_fill(near, -torch.inf)
        return (F.cross_entropy(similarity, own) + F.cross_entropy(similarity.T, own)) / 2

    def _embed(self, chunks: Tensor) -> Tensor:
        """What the first codebook quantizes, as unit vectors `[B, E * n]`."""
        pooled = pool(self._tokenizer.latent(chunks), self._quantizer.scales[0])
        return F.normalize(pooled.flatten(1), dim=1)
