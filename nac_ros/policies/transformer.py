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

    def step(
        self, x: Tensor, past: KeysValues, mask: Tensor, condition: KeysValues | None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """One position `[B, 1, dim]` after a cache of fixed length -> the same, and its keys and
        values `[B, heads, 1, d]`.

        past: keys and values `[B, heads, T, d]`; mask: bool `[T + 1]`, the cached positions that
        count, and the new one; condition: keys and values of the cross-attention
        """
        query, key, value = self._heads(self.qkv(self.norm1(x)), 3)
        keys, values = torch.cat([past[0], key], 2), torch.cat([past[1], value], 2)
        x = x + self.out(self._attend(query, keys, values, mask))
        if self.cross is not None:
            (query,) = self._heads(self.cross["query"](self.cross["norm"](x)), 1)
            x = x + self.cross["out"](self._attend(query, *condition, None))
        return x + self.mlp(self.norm2(x)), key, value

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

    def step(
        self,
        x: Tensor,
        keys: Tensor,
        values: Tensor,
        n_cached: Tensor,
        condition: KeysValues | None = None,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """One position `[B, 1, dim]` after a cache of fixed length, for export.

        keys, values: `[B, layers, heads, T, d]`, of which the first `n_cached` int64 `[1]` of T
        count; condition: keys and values of the cross-attention, `[B, layers, heads, N, d]`

        Returns the output `[B, 1, dim]`, and its keys and values `[B, layers, heads, 1, d]`.
        """
        length = keys.shape[3]
        index = torch.arange(length + 1, device=x.device)
        mask = ((index < n_cached) | (index == length))[None]  # [1, T + 1]
        new_keys, new_values = [], []
        for layer, block in enumerate(self.blocks):
            past = (keys[:, layer], values[:, layer])
            read = None if condition is None else (condition[0][:, layer], condition[1][:, layer])
            x, key, value = block.step(x, past, mask, read)
            new_keys.append(key)
            new_values.append(value)
        return self.norm(x), torch.stack(new_keys, 1), torch.stack(new_values, 1)

    def _mask(self, length: int, device: torch.device) -> Tensor:
        mask = torch.ones(length, length, dtype=torch.bool, device=device).tril()
        mask[: self.n_context, : self.n_context] = True
        return mask


def stack_cache(cache: list[Cache]) -> tuple[Tensor, ...]:
    """Keys and values of all blocks, each `[B, layers, heads, T, d]`; with cross-attention also
    those of the conditioning."""
    parts = [pair for kept in zip(*cache) if kept[0] is not None for pair in zip(*kept)]
    return tuple(torch.stack(part, 1) for part in parts)
