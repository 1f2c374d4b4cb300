"""Learnability of tokens: bits that a small transformer of fixed size needs for them.

Reconstruction alone does not decide how well a policy controls a robot: it must also be able to
predict the tokens. One model, with the same size, steps and seed for all tokenizers, learns the
tokens of training chunks given the joint state at their first frame. Its cross entropy on held-out
chunks is the measure, in bits; a uniform guess needs log2 of the legal tokens at each position.
"""

from dataclasses import dataclass
from math import log

import numpy as np
import torch
from torch import Tensor, nn

from nac_ros.core.config import check_fields, number_field
from nac_ros.core.errors import BadActions
from nac_ros.datasets.action_chunks import ActionChunks
from nac_ros.tokenizers.base import Tokenizer
from nac_ros.tokenizers.grammar import PAD, FixedGrammar, Grammar
from nac_ros.training.tokenizer_metrics import encode_chunks

MIN_STD = 1e-6  # [rad or m] a joint that varies less is only centred
Group = tuple[Tensor, Tensor]  # positions, and the tokens that are legal at each of them


@dataclass(frozen=True, kw_only=True)
class LearnabilityConfig:
    """The model and its training; figures compare only between equal configs.

    train_chunks, held_out_chunks: at most so many, evenly spaced
    The defaults take about a minute on one core for 12 tokens of 1024 values.
    """

    dim: int = number_field(96, 1)
    n_layers: int = number_field(2, 1)
    n_heads: int = number_field(4, 1)
    dropout: float = number_field(0.2, 0, 1)
    steps: int = number_field(600, 1)
    batch: int = number_field(64, 1)
    learning_rate: float = number_field(5e-4, 0)
    weight_decay: float = number_field(0.1, 0)
    train_chunks: int = number_field(16_384, 1)
    held_out_chunks: int = number_field(2048, 1)
    seed: int = 0

    def __post_init__(self) -> None:
        check_fields(self)


@dataclass(frozen=True)
class Learnability:
    """Bits for held-out tokens, mean over the chunks that have tokens.

    bits_per_chunk, bits_per_token: cross entropy; uniform_bits_per_chunk: of a guess with equal
        probability for every token that the grammar allows
    chunks: held-out chunks measured; steps: of training
    """

    bits_per_chunk: float
    bits_per_token: float
    uniform_bits_per_chunk: float
    chunks: int
    steps: int


def measure_learnability(
    tokenizer: Tokenizer,
    train: ActionChunks,
    held_out: ActionChunks,
    config: LearnabilityConfig | None = None,
) -> Learnability:
    """Trains the model on the tokens of `train` and measures it on those of `held_out`.

    Chunks without tokens are left out; without joint states the tokens are predicted from the
    tokens before them alone. Raises BadActions if one side has no chunk with tokens.
    """
    config = config or LearnabilityConfig()
    tokens, states = _tokens_and_states(tokenizer, train, config.train_chunks, "training")
    unseen, unseen_states = _tokens_and_states(
        tokenizer, held_out, config.held_out_chunks, "held-out"
    )
    length = max(tokens.shape[1], unseen.shape[1])
    tokens, unseen = _pad(tokens, length), _pad(unseen, length)
    mean, std = states.mean(0), states.std(0, correction=0)
    std = torch.where(std < MIN_STD, 1.0, std)
    states, unseen_states = (states - mean) / std, (unseen_states - mean) / std
    with torch.random.fork_rng():
        torch.manual_seed(config.seed)
        model = TokenModel(tokenizer.grammar, length, states.shape[1], config).to(tokens.device)
        _train(model, tokens, states, config)
    return _measure(model, unseen, unseen_states, config)


class TokenModel(nn.Module):
    """Causal transformer over the tokens of a chunk, with the joint state in front of them."""

    def __init__(self, grammar: Grammar, length: int, state_dim: int, config: LearnabilityConfig):
        """length: of the longest sequence"""
        super().__init__()
        dim = config.dim
        self.grammar = grammar
        self.state = nn.Linear(state_dim, dim)
        self.token = nn.Embedding(grammar.vocab_size, dim)
        self.position = nn.Parameter(0.02 * torch.randn(length, dim))
        layer = nn.TransformerEncoderLayer(
            dim,
            config.n_heads,
            4 * dim,
            config.dropout,
            "gelu",
            batch_first=True,
            norm_first=True,
        )
        self.layers = nn.TransformerEncoder(
            layer, config.n_layers, nn.LayerNorm(dim), enable_nested_tensor=False
        )
        self.output = nn.Linear(dim, grammar.vocab_size)
        nn.init.normal_(self.token.weight, std=0.02)
        nn.init.normal_(self.output.weight, std=0.02)
        nn.init.zeros_(self.output.bias)
        self._groups = _position_groups(grammar, length)

    def forward(self, tokens: Tensor, states: Tensor) -> tuple[Tensor, Tensor]:
        """Negative log likelihood [nats] of tokens `[B, L]` given states `[B, D]`, and that of a
        uniform guess, both `[B, L]`, 0 for padding."""
        before = self.token(tokens[:, :-1].clamp(min=0))
        x = torch.cat([self.state(states)[:, None], before], 1) + self.position
        mask = nn.Transformer.generate_square_subsequent_mask(x.shape[1], device=x.device)
        hidden = self.layers(x, mask=mask, is_causal=True)
        model, uniform = torch.zeros(2, *tokens.shape, device=x.device)
        for positions, legal in self._groups:
            positions, legal = positions.to(x.device), legal.to(x.device)
            weight, bias = self.output.weight[legal], self.output.bias[legal]
            logits = hidden[:, positions] @ weight.T + bias  # [B, n, C]
            wanted = torch.searchsorted(legal, tokens[:, positions].clamp(min=legal[0]))
            if not isinstance(self.grammar, FixedGrammar):
                logits = logits.masked_fill(~self._legal(tokens), -torch.inf)
            chosen = logits.log_softmax(-1).gather(-1, wanted[..., None])[..., 0]
            model = model.index_copy(1, positions, -chosen)
            count = torch.isfinite(logits).sum(-1).clamp(min=1)
            uniform[:, positions] = count.float().log()
        padding = tokens == PAD
        return model.masked_fill(padding, 0.0), uniform.masked_fill(padding, 0.0)

    def _legal(self, tokens: Tensor) -> Tensor:
        """Bool `[B, L, V]`: what the grammar allows after each prefix; all after the end."""
        prefixes = tokens.cpu().numpy()
        legal = [self.grammar.legal(prefixes[:, :k]) for k in range(prefixes.shape[1])]
        stacked = np.stack(legal, 1)
        stacked[prefixes == PAD] = True  # not counted
        return torch.from_numpy(stacked).to(tokens.device)


def _position_groups(grammar: Grammar, length: int) -> list[Group]:
    """Positions with the same legal tokens together, so that no logits are computed in vain.

    Where the legal tokens depend on the prefix, all positions and all tokens are one group.
    """
    if not isinstance(grammar, FixedGrammar):
        return [(torch.arange(length), torch.arange(grammar.vocab_size))]
    legal = [grammar.legal(np.zeros((1, k), np.int64)) for k in range(length)]
    sets, group = np.unique(np.concatenate(legal), axis=0, return_inverse=True)
    return [
        (torch.from_numpy(np.flatnonzero(group == k)), torch.from_numpy(np.flatnonzero(row)))
        for k, row in enumerate(sets)
    ]


def _tokens_and_states(
    tokenizer: Tokenizer, chunks: ActionChunks, most: int, side: str
) -> tuple[Tensor, Tensor]:
    """Tokens `[N, L]` and joint states `[N, D]` of up to `most` evenly spaced chunks."""
    n = len(chunks.actions)
    some = chunks.select(np.linspace(0, n - 1, min(n, most)).astype(np.int64))
    tokens = encode_chunks(tokenizer, some)
    coded = tokens[:, 0] != PAD
    if not coded.any():
        raise BadActions(f"tokenizer {tokenizer.name} has tokens for no {side} chunk")
    references = some.references
    states = np.zeros_like(some.actions[:, 0]) if references is None else references
    tokens = tokens[coded]
    longest = int((tokens != PAD).sum(1).max())
    on_cpu = torch.from_numpy(tokens[:, :longest]), torch.from_numpy(states[coded])
    return on_cpu[0].to(tokenizer.device), on_cpu[1].to(tokenizer.device)


def _pad(tokens: Tensor, length: int) -> Tensor:
    return nn.functional.pad(tokens, (0, length - tokens.shape[1]), value=PAD)


def _train(model: TokenModel, tokens: Tensor, states: Tensor, config: LearnabilityConfig) -> None:
    """AdamW on the mean cross entropy per token, with a rate that falls along a cosine."""
    optimizer = torch.optim.AdamW(
        model.parameters(), config.learning_rate, weight_decay=config.weight_decay
    )
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, config.steps)
    model.train()
    for _ in range(config.steps):
        rows = torch.randint(len(tokens), (config.batch,), device=tokens.device)
        batch = tokens[rows]
        loss = model(batch, states[rows])[0].sum() / (batch != PAD).sum()
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()


@torch.no_grad()
def _measure(
    model: TokenModel, tokens: Tensor, states: Tensor, config: LearnabilityConfig
) -> Learnability:
    model.eval()
    batches = zip(tokens.split(config.batch), states.split(config.batch))
    sums = [torch.stack(model(batch, state)).sum((1, 2)) for batch, state in batches]
    model_bits, uniform_bits = (torch.stack(sums).double().sum(0) / log(2)).tolist()
    return Learnability(
        bits_per_chunk=model_bits / len(tokens),
        bits_per_token=model_bits / int((tokens != PAD).sum()),
        uniform_bits_per_chunk=uniform_bits / len(tokens),
        chunks=len(tokens),
        steps=config.steps,
    )
