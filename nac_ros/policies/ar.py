"""Plain autoregressive policy over the tokens of any tokenizer (NAC section 3.3, Algorithm 2).

A causal transformer is trained with hard cross entropy on the demonstrated tokens and sampled from
top k. It is the same for every tokenizer, so that tokenizers can be compared; `ar_guided` adds
what helps a particular one.
"""

from dataclasses import dataclass
from itertools import groupby
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from nac_ros.core.config import number_field
from nac_ros.core.errors import ConfigError
from nac_ros.core.sampling import Sampling
from nac_ros.policies.base import PAPER_TRAINING, POLICIES, Targets
from nac_ros.policies.graphs import Tensors
from nac_ros.policies.observation_encoder import Inputs, ObservationEncoder
from nac_ros.policies.sampling import mask_illegal
from nac_ros.policies.token_policy import (
    DecodingGraphs,
    NextTokenLogits,
    TokenPolicy,
    TokenPolicyConfig,
)
from nac_ros.policies.transformer import Cache, CausalTransformer, stack_cache
from nac_ros.tokenizers.base import Tokenizer
from nac_ros.tokenizers.grammar import PAD, FixedGrammar
from nac_ros.tokenizers.serialization import check_elements

LOGIT_OF_ILLEGAL = -1e9  # finite, so that padded positions give no NaN


@dataclass(frozen=True, kw_only=True)
class ArConfig(TokenPolicyConfig):
    """Network sizes; those of the paper's Table 5 are the defaults.

    conditioning: the observation is a prefix of the sequence, or read by cross-attention
    """

    dim: int = number_field(256, 1)
    n_layers: int = number_field(4, 1)
    n_heads: int = number_field(4, 1)
    dropout: float = 0.1
    conditioning: Literal["prefix", "cross_attention"] = "prefix"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.dim % self.n_heads:
            raise ConfigError(f"dim {self.dim} must be a multiple of n_heads {self.n_heads}")


@POLICIES.register("ar")
class ArPolicy(TokenPolicy):
    """Decoder-only transformer over [context vectors, BOS, tokens]."""

    name = "ar"
    Config = ArConfig
    token_prefixes = ("token_embedding.", "token_logits.", "position_embedding")
    presets = {
        "paper": {},
        "small": {"dim": 192, "sampling": Sampling(top_k=1)},
    }
    training_defaults = {"paper": PAPER_TRAINING}

    def __init__(self, config: ArConfig, preset: str, tokenizer: Tokenizer):
        super().__init__(config, preset, tokenizer)
        dim, vocabulary = config.dim, self.grammar.vocab_size
        check_elements("the token embedding", vocabulary, dim)
        self.observation_encoder = ObservationEncoder(config, dim, self.chunk_spec.action_dim)
        crosses = config.conditioning == "cross_attention"
        self._n_prefix = 0 if crosses else self.observation_encoder.n_vectors
        self.token_embedding = nn.Embedding(vocabulary, dim)
        self.token_logits = nn.Linear(dim, vocabulary)
        self.bos = nn.Parameter(torch.randn(dim) * 0.02)
        length = self._n_prefix + self.grammar.max_tokens
        check_elements("the position embedding", length, dim)
        self.position_embedding = nn.Parameter(torch.randn(length, dim) * 0.02)
        self.transformer = CausalTransformer(
            dim, config.n_layers, config.n_heads, config.dropout, self._n_prefix, crosses
        )

    def loss(self, inputs: Inputs, targets: Targets) -> dict[str, Tensor]:
        tokens, hidden = targets["tokens"], self._hidden_along(inputs, targets["tokens"])
        if isinstance(self.grammar, FixedGrammar):
            return {"tokens": self._fixed_cross_entropy(hidden, tokens)}
        logits = self.token_logits(hidden).float()
        masked = logits.masked_fill(~self.legal_along(tokens), LOGIT_OF_ILLEGAL)
        cross_entropy = F.cross_entropy(masked.flatten(0, 1), tokens.flatten(), ignore_index=PAD)
        return {"tokens": cross_entropy}

    def _fixed_cross_entropy(self, hidden: Tensor, tokens: Tensor) -> Tensor:
        """Mean cross entropy of tokens `[B, L]`, from the logits of the legal ones alone.

        Position k of a FixedGrammar takes a token in [start, stop). Runs of positions with equal
        ranges share one product with these rows of the output layer, which is far less work than
        all logits where each position has a codebook of its own.
        """
        weight, bias, total = self.token_logits.weight, self.token_logits.bias, []
        ranges = list(zip(self.grammar.starts, self.grammar.stops))
        for (start, stop), run in groupby(range(len(ranges)), key=ranges.__getitem__):
            positions = list(run)
            here = slice(positions[0], positions[-1] + 1)
            logits = F.linear(hidden[:, here], weight[start:stop], bias[start:stop]).float()
            wanted = tokens[:, here] - start
            total.append(F.cross_entropy(logits.flatten(0, 1), wanted.flatten(), reduction="sum"))
        return torch.stack(total).sum() / tokens.numel()

    def token_log_probs(self, inputs: Inputs, tokens: Tensor) -> Tensor:
        legal = self.legal_along(tokens) | (tokens < 0)[..., None]  # rows of padding are ignored
        logits = self.token_logits(self._hidden_along(inputs, tokens)).float()
        return torch.log_softmax(mask_illegal(logits, legal), -1)

    @torch.no_grad()
    def next_token_logits(self, inputs: Inputs) -> NextTokenLogits:
        """Decoding with a key-value cache: each call feeds the newest token, the first one the
        context and BOS."""
        context = self.context_vectors(inputs)
        prefix, condition = self._split_context(context)
        cache: list[Cache] | None = None

        def logits(tokens: Tensor) -> Tensor:
            nonlocal cache
            if tokens.shape[1]:
                last = self.token_embedding(tokens[:, -1:].clamp(min=0))
                position = prefix.shape[1] + tokens.shape[1]
                step = last + self.position_embedding[position]
            else:
                step = self._sequence(prefix, tokens)
            hidden, cache = self.transformer(step, cache, condition)
            legal, head = self.token_range(tokens.shape[1]), self.token_logits
            return F.linear(hidden[:, -1], head.weight[legal], head.bias[legal]).float()

        return logits

    def decoding_graphs(self) -> DecodingGraphs:
        crosses = self.config.conditioning == "cross_attention"

        def begin(inputs: Inputs) -> tuple[Tensor, ...]:
            prefix, condition = self._split_context(self.context_vectors(inputs))
            no_tokens = inputs.task[:, None][:, :0]
            hidden, cache = self.transformer(self._sequence(prefix, no_tokens), None, condition)
            legal = self.token_range(0) if self.equal_books else slice(None)
            head = self.token_logits
            logits = F.linear(hidden[:, -1], head.weight[legal], head.bias[legal])
            return logits, *stack_cache(cache)

        def step(tensors: Tensors) -> tuple[Tensor, ...]:
            position = tensors["position"]
            n_cached = self._n_prefix + position
            x = self.token_embedding(tensors["token"])[:, None] + self.position_embedding[n_cached]
            condition = (tensors["cross_keys"], tensors["cross_values"]) if crosses else None
            past = (tensors["keys"], tensors["values"])
            hidden, keys, values = self.transformer.step(x, *past, n_cached, condition)
            head = self.token_logits
            weight, bias = (self.book(rows, position) for rows in (head.weight, head.bias))
            return F.linear(hidden[:, 0], weight, bias), keys, values

        return begin, step, (("cross_keys", "cross_values") if crosses else ())

    def _hidden_along(self, inputs: Inputs, tokens: Tensor) -> Tensor:
        """Transformer output `[B, L, dim]` at the position before each token."""
        prefix, condition = self._split_context(self.context_vectors(inputs))
        sequence = self._sequence(prefix, tokens[:, :-1])
        hidden, _ = self.transformer(sequence, None, condition)
        return hidden[:, prefix.shape[1] :]

    def _split_context(self, context: Tensor) -> tuple[Tensor, Tensor | None]:
        """Context vectors `[B, n, dim]` as prefix of the sequence, and for cross-attention."""
        if self.config.conditioning == "prefix":
            return context, None
        return context[:, :0], context

    def _sequence(self, prefix: Tensor, tokens: Tensor) -> Tensor:
        """[prefix, BOS, tokens] with positions, `[B, n + 1 + k, dim]`."""
        bos = self.bos.expand(prefix.shape[0], 1, -1)
        embedded = self.token_embedding(tokens.clamp(min=0))
        sequence = torch.cat([prefix, bos, embedded], 1)
        return sequence + self.position_embedding[: sequence.shape[1]]
