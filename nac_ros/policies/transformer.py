"""Causal transformer with a key-value cache; its context positions attend to one another."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

Cache = list[tuple[Tensor, Tensor]]  # per layer: keys and values `[B, heads, T, dim / heads]`


class Block(nn.Module):
    """Pre-norm self-attention and an MLP of four times the width."""

    def __init__(self, dim: int, n_heads: int, dropout: float):
        super().__init__()
        self.n_heads, self.dropout = n_heads, dropout
        self.norm1, self.norm2 = nn.LayerNorm(dim), nn.LayerNorm(dim)
        self.qkv = nn.Linear(dim, 3 * dim)
        self.out = nn.Linear(dim, dim)
        self.mlp = nn.Sequential(
            nn.Linear(dim, 4 * dim), nn.GELU(), nn.Linear(4 * dim, dim), nn.Dropout(dropout)
        )

    def forward(
        self, x: Tensor, mask: Tensor | None, past: tuple[Tensor, Tensor] | None
    ) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        batch, length, dim = x.shape
        qkv = self.qkv(self.norm1(x)).view(batch, length, 3, self.n_heads, -1)
        query, key, value = qkv.permute(2, 0, 3, 1, 4)  # [B, heads, T, dim / heads] each
        if past is not None:
            key, value = torch.cat([past[0], key], 2), torch.cat([past[1], value], 2)
        dropout = self.dropout if self.training else 0.0
        attended = F.scaled_dot_product_attention(
            query, key, value, attn_mask=mask, dropout_p=dropout
        )
        x = x + self.out(attended.transpose(1, 2).reshape(batch, length, dim))
        return x + self.mlp(self.norm2(x)), (key, value)


class CausalTransformer(nn.Module):
    """`[B, T, dim]` -> `[B, T, dim]`; the first `n_context` positions see one another fully."""

    def __init__(self, dim: int, n_layers: int, n_heads: int, dropout: float, n_context: int):
        super().__init__()
        self.n_context = n_context
        self.blocks = nn.ModuleList(Block(dim, n_heads, dropout) for _ in range(n_layers))
        self.norm = nn.LayerNorm(dim)

    def forward(self, x: Tensor, cache: Cache | None = None) -> tuple[Tensor, Cache]:
        """Processes the whole sequence, or with a cache the one position that follows it."""
        mask = None if cache else self._mask(x.shape[1]).to(x.device)
        new_cache: Cache = []
        for index, block in enumerate(self.blocks):
            x, keys_values = block(x, mask, cache[index] if cache else None)
            new_cache.append(keys_values)
        return self.norm(x), new_cache

    def _mask(self, length: int) -> Tensor:
        mask = torch.ones(length, length, dtype=torch.bool).tril()
        mask[: self.n_context, : self.n_context] = True
        return mask
