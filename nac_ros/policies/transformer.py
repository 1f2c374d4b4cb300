"""Causal transformer with a key-value cache, conditioned by a prefix or by cross-attention."""

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

KeysValues = tuple[Tensor, Tensor]  # each `[B, heads, T, dim / heads]`


class Cache(NamedTuple):
    """Of one block: keys and values of the sequence so far, and of the conditioning if any."""

    sequence: KeysValues
    condition: KeysValues | None


class Block(nn.Module):
    """Pre-norm self-attention, optional cross-attention, and an MLP of four times the width."""

    def __init__(self, dim: int, n_heads: int, dropout: float, cross_attention: bool = False):
        super().__init__()
        self.n_heads, self.dropout = n_heads, dropout
        self.norm1, self.norm2 = nn.LayerNorm(dim), nn.LayerNorm(dim)
        self.qkv = nn.Linear(dim, 3 * dim)
        self.out = nn.Linear(dim, dim)
        self.mlp = nn.Sequential(
            nn.Linear(dim, 4 * dim), nn.GELU(), nn.Linear(4 * dim, dim), nn.Dropout(dropout)
        )
        self.cross: nn.ModuleDict | None = None
        if cross_attention:
            self.cross = nn.ModuleDict(
                {
                    "norm": nn.LayerNorm(dim),
                    "query": nn.Linear(dim, dim),
                    "key_value": nn.Linear(dim, 2 * dim),
                    "out": nn.Linear(dim, dim),
                }
            )

    def forward(
        self, x: Tensor, mask: Tensor | None, past: Cache | None, condition: Tensor | None = None
    ) -> tuple[Tensor, Cache]:
        """`[B, T, dim]` -> the same; mask: bool `[T, T]`; condition: `[B, N, dim]`, read by the
        cross-attention in the first call, later ones take its keys from `past`."""
        query, key, value = self._heads(self.qkv(self.norm1(x)), 3)
        if past is not None:
            key = torch.cat([past.sequence[0], key], 2)
            value = torch.cat([past.sequence[1], value], 2)
        x = x + self.out(self._attend(query, key, value, mask))
        attended = None
        if self.cross is not None:
            attended = past.condition if past else self._condition_keys(condition)
            (query,) = self._heads(self.cross["query"](self.cross["norm"](x)), 1)
            x = x + self.cross["out"](self._attend(query, *attended, None))
        return x + self.mlp(self.norm2(x)), Cache((key, value), attended)

    def _condition_keys(self, condition: Tensor) -> KeysValues:
        key, value = self._heads(self.cross["key_value"](condition), 2)
        return key, value

    def _heads(self, x: Tensor, n: int) -> tuple[Tensor, ...]:
        """`[B, T, n dim]` -> n tensors `[B, heads, T, dim / heads]`."""
        return x.unflatten(-1, (n, self.n_heads, -1)).permute(2, 0, 3, 1, 4).unbind(0)

    def _attend(self, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None) -> Tensor:
        dropout = self.dropout if self.training else 0.0
        attended = F.scaled_dot_product_attention(
            query, key, value, attn_mask=mask, dropout_p=dropout
        )
        return attended.transpose(1, 2).flatten(2)  # [B, T, dim]


class CausalTransformer(nn.Module):
    """`[B, T, dim]` -> `[B, T, dim]`; the first `n_context` positions see one another fully.

    cross_attention: every position also attends to conditioning vectors `[B, N, dim]`
    """

    def __init__(
        self,
        dim: int,
        n_layers: int,
        n_heads: int,
        dropout: float,
        n_context: int,
        cross_attention: bool = False,
    ):
        super().__init__()
        self.n_context = n_context
        self.blocks = nn.ModuleList(
            Block(dim, n_heads, dropout, cross_attention) for _ in range(n_layers)
        )
        self.norm = nn.LayerNorm(dim)

    def forward(
        self, x: Tensor, cache: list[Cache] | None = None, condition: Tensor | None = None
    ) -> tuple[Tensor, list[Cache]]:
        """Processes the whole sequence, or with a cache the one position that follows it."""
        mask = None if cache else self._mask(x.shape[1], x.device)
        new_cache = []
        for index, block in enumerate(self.blocks):
            x, kept = block(x, mask, cache[index] if cache else None, condition)
            new_cache.append(kept)
        return self.norm(x), new_cache

    def _mask(self, length: int, device: torch.device) -> Tensor:
        mask = torch.ones(length, length, dtype=torch.bool, device=device).tril()
        mask[: self.n_context, : self.n_context] = True
        return mask
