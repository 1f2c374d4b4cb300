"""Autoregressive policy whose tokens are guided by a regressed chunk and by codeword distances.

It goes beyond the paper (`ar` is the plain form) in three ways that help when demonstrations are
few:

- A regression head predicts the chunk from the context (the *plan*). Its loss trains the image
  encoders, and the transformer sees the plan as one more context vector.
- Where tokens have codewords, logits and training targets follow codeword distances
  (`codeword_head`).
- The latents that the logits are computed from start at the residuals of the plan: the vectors
  that the remaining tokens should quantize so that the sequence reproduces the plan. An untrained
  transformer therefore encodes the plan, and training corrects it.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from nac_ros.codec.precision import full_precision
from nac_ros.core.config import number_field
from nac_ros.core.errors import ConfigError
from nac_ros.core.sampling import Sampling
from nac_ros.policies.base import (
    PAPER_TRAINING,
    POLICIES,
    PolicyOutput,
    PredictionContext,
    Targets,
)
from nac_ros.policies.codeword_head import CodewordHead
from nac_ros.policies.graphs import Graph, Tensors, example_observations, to_inputs
from nac_ros.policies.observation_encoder import Inputs, ObservationEncoder
from nac_ros.policies.sampling import Generator, mask_illegal
from nac_ros.policies.token_policy import (
    RESIDUAL,
    DecodingGraphs,
    NextTokenLogits,
    TokenPolicy,
    TokenPolicyConfig,
)
from nac_ros.policies.transformer import CausalTransformer, stack_cache
from nac_ros.tokenizers.base import Tokenizer
from nac_ros.tokenizers.serialization import check_elements

MIN_STD = 0.01  # of a normalized action; smaller deviations are not scaled up further
FIT_SEQUENCES = 256  # training sequences that set the target widths


@dataclass(frozen=True, kw_only=True)
class ArGuidedConfig(TokenPolicyConfig):
    """Network sizes and loss weights; the sizes are those of the paper's Table 5.

    target_temperature: of the soft targets, in fitted widths (`CodewordHead.fit`); 0 = one-hot
    regression_weight, future_weight: weights of the regression head's L1 losses, on the chunk and
        on the actions at `future_stride` times its spacing, which also cover the time after it
    token_weight: weight of the token loss; with 0 the transformer is not trained
    acts_by: the executed chunk is decoded from sampled tokens, is the regressed one, or is decoded
        from the tokens that the regressed one has (`regression_tokens`)
    """

    dim: int = number_field(256, 1)
    n_layers: int = number_field(4, 1)
    n_heads: int = number_field(4, 1)
    dropout: float = 0.1
    target_temperature: float = 2.0
    regression_weight: float = 1.0
    future_weight: float = 0.3
    future_stride: int = number_field(4, 1, 1000)
    token_weight: float = 1.0
    acts_by: Literal["tokens", "regression", "regression_tokens"] = "tokens"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.dim % self.n_heads:
            raise ConfigError(f"dim {self.dim} must be a multiple of n_heads {self.n_heads}")
        if self.acts_by == "tokens" and not self.token_weight:
            raise ConfigError(
                "with token_weight 0 no token is learned; set acts_by to regression, or to "
                "regression_tokens"
            )


@POLICIES.register("ar_guided")
class ArGuidedPolicy(TokenPolicy):
    """Decoder-only transformer over [context vectors, plan, BOS, tokens]."""

    name = "ar_guided"
    Config = ArGuidedConfig
    token_prefixes = ("codeword_head.", "token_embedding.", "token_logits.")
    presets = {
        "paper": {},
        "small": {"dim": 192, "sampling": Sampling(top_k=1)},
    }
    training_defaults = {"paper": PAPER_TRAINING}

    def __init__(self, config: ArGuidedConfig, preset: str, tokenizer: Tokenizer):
        super().__init__(config, preset, tokenizer)
        horizon, action_dim = self.chunk_spec.horizon, self.chunk_spec.action_dim
        self._chunk_shape = (horizon, action_dim)
        chunk_size, dim = horizon * action_dim, config.dim
        self.observation_encoder = ObservationEncoder(config, dim, action_dim)
        n_context = self.observation_encoder.n_vectors
        self.regression_head = nn.Sequential(
            nn.Linear(n_context * dim, 512),
            nn.GELU(),
            nn.LayerNorm(512),
            nn.Linear(512, 512),
            nn.GELU(),
            nn.LayerNorm(512),
            nn.Linear(512, 2 * chunk_size),
        )
        # Scale of the regression targets: [0] the chunk, [1] the actions at wider spacing.
        self.register_buffer("regression_mean", torch.zeros(2, *self._chunk_shape))
        self.register_buffer("regression_std", torch.ones(2, *self._chunk_shape))
        self.plan_projection = nn.Linear(chunk_size, dim)
        self.bos = nn.Parameter(torch.randn(dim) * 0.02)
        length = n_context + 1 + self.grammar.max_tokens  # context, plan, BOS, all tokens but one
        check_elements("the position embedding", length, dim)
        self.position_embedding = nn.Parameter(torch.randn(length, dim) * 0.02)
        self.transformer = CausalTransformer(
            dim, config.n_layers, config.n_heads, config.dropout, n_context + 1
        )
        self._add_token_heads(tokenizer)

    def _add_token_heads(self, tokenizer: Tokenizer) -> None:
        """Codeword head where tokens have codewords, else an embedding table and a linear head."""
        codewords, dim = tokenizer.embeddings(), self.config.dim
        self.codeword_head = self.token_embedding = self.token_logits = None
        if codewords is not None:
            self.codeword_head = CodewordHead(codewords, dim, self.grammar.max_tokens)
        else:
            self.token_embedding = nn.Embedding(self.grammar.vocab_size, dim)
            self.token_logits = nn.Linear(dim, self.grammar.vocab_size)

    @property
    def target_offsets(self) -> np.ndarray:
        steps = np.arange(self.chunk_spec.horizon)
        return np.concatenate([steps, self.config.future_stride * steps])

    def prepare_targets(self, actions: Tensor, references: Tensor) -> Targets:
        """As of the base class, and the `future` actions at wider spacing, `[B, H, D]`."""
        targets = super().prepare_targets(actions, references)
        future = self.tokenizer.normalize(actions[:, self.chunk_spec.horizon :], references)
        return {**targets, "future": future}

    def fit_targets(self, targets: Targets) -> None:
        """Scales the regression, and fits the target widths of the codeword head."""
        self._fit_regression(targets["chunk"], targets["future"])
        if self.codeword_head is not None and "latents" in targets:
            tokens = targets["tokens"]
            n, last = min(FIT_SEQUENCES, len(tokens)), len(tokens) - 1
            rows = torch.linspace(0, last, n, device=tokens.device).long()
            legal = self.legal_along(tokens[rows])
            self.codeword_head.fit(targets["latents"][rows], tokens[rows], legal)

    def _fit_regression(self, chunk: Tensor, future: Tensor) -> None:
        """Scales the regression to targets `[N, H, D]`: near steps vary less than far ones."""
        wanted = torch.stack([chunk, future], 1)
        mean, std = wanted.mean(0), wanted.std(0).clamp(min=MIN_STD)
        if not (self.regression_std == 1).all():
            # A pretrained head: rescale its last layer so that its predictions do not change.
            last, ratio = self.regression_head[-1], (self.regression_std / std).flatten()
            last.weight.data.mul_(ratio[:, None])
            last.bias.data.mul_(ratio).add_(((self.regression_mean - mean) / std).flatten())
        self.regression_mean.copy_(mean)
        self.regression_std.copy_(std)

    def loss(self, inputs: Inputs, targets: Targets) -> dict[str, Tensor]:
        config = self.config
        inputs = inputs._replace(image_features=self.encode_images(inputs))
        context, plans = self._context(inputs)
        wanted = torch.stack([targets["chunk"], targets["future"]], 1)  # [B, 2, H, D]
        scaled = (wanted - self.regression_mean) / self.regression_std
        error = (plans - scaled).abs().mean((0, 2, 3))
        losses = {
            "regression": config.regression_weight * error[0],
            "future": config.future_weight * error[1],
        }
        if config.token_weight:
            residuals = self._plan_residuals(plans)(targets["tokens"])
            hidden = self._hidden(context, targets["tokens"][:, :-1], residuals)
            with full_precision(self.device):
                cross_entropy = self._cross_entropy(hidden.float(), residuals, targets)
            losses["tokens"] = config.token_weight * cross_entropy
        return losses

    @torch.no_grad()
    def predict(
        self,
        inputs: Inputs,
        n_samples: int = 1,
        context: PredictionContext | None = None,
        generator: Generator = None,
    ) -> PolicyOutput:
        if self.predicts_tokens:
            return super().predict(inputs, n_samples, context, generator)
        chunk = self.regress_chunk(inputs).repeat_interleave(n_samples, 0)
        if self.config.acts_by == "regression":
            return PolicyOutput(chunk)
        tokens = self.tokenizer.encode_normalized(chunk)
        return PolicyOutput(self.decoder(tokens), tokens)

    @property
    def supports_context(self) -> bool:
        return self.predicts_tokens and super().supports_context

    @property
    def predicts_tokens(self) -> bool:
        return self.config.acts_by == "tokens"

    @torch.no_grad()
    def golden_outputs(self, inputs: Inputs, tokens: Tensor | None) -> dict[str, Tensor]:
        if tokens is None:
            return {"chunk": self.regress_chunk(inputs)}
        return super().golden_outputs(inputs, tokens)

    @torch.no_grad()
    def next_token_logits(self, inputs: Inputs) -> NextTokenLogits:
        """Decoding with a key-value cache.

        Step k feeds the embedding of token k - 1 (BOS at k = 0, after the context). The residual
        of the plan depends on the tokens chosen so far, and is updated with each.
        """
        context, plans = self._context(inputs)
        with full_precision(self.device):
            plan, cache = self.tokenizer.residual_steps(self._denormalized_plan(plans)), None

        def logits(tokens: Tensor) -> Tensor:
            nonlocal cache
            position, residual = tokens.shape[1], None
            if plan is not None:
                with full_precision(self.device):
                    if position:
                        plan.add(tokens[:, -1])
                    residual = plan.target()
            embedded = self._embed(tokens[:, -1:]) if position else self._bos(context)
            embedded = embedded + self._residual_embedding(residual)
            if position:
                step = self._add_positions(embedded, context.shape[1] + position)
            else:
                step = self._add_positions(torch.cat([context, embedded], 1), 0)
            hidden, cache = self.transformer(step, cache)
            legal = self.token_range(position)
            with full_precision(self.device):
                return self._next_logits(hidden[:, -1].float(), residual, position, legal)

        return logits

    def graphs(self) -> dict[str, Graph]:
        """As of TokenPolicy, or `context` gives the regressed `chunk` if the policy acts by it."""
        if self.config.acts_by == "regression_tokens":
            raise ConfigError("acts_by regression_tokens has no ONNX export; choose tokens")
        if self.config.acts_by == "tokens":
            return super().graphs()

        def context(tensors: Tensors) -> tuple[Tensor, ...]:
            return (self.regress_chunk(to_inputs(tensors)),)

        return {"context": Graph(context, example_observations(self.observation_spec), ("chunk",))}

    def decoding_graphs(self) -> DecodingGraphs:
        n_context = self.observation_encoder.n_vectors + 1  # with the plan

        def begin(inputs: Inputs) -> tuple[Tensor, ...]:
            context, plans = self._context(inputs)
            plan = self.tokenizer.residual_steps(self._denormalized_plan(plans))
            residual = None if plan is None else plan.target()
            embedded = self._bos(context) + self._residual_embedding(residual)
            sequence = self._add_positions(torch.cat([context, embedded], 1), 0)
            hidden, cache = self.transformer(sequence)
            legal = self.token_range(0) if self.equal_books else slice(None)
            logits = self._next_logits(hidden[:, -1], residual, 0, legal)
            return logits, *stack_cache(cache), *(() if plan is None else (plan.state,))

        def step(tensors: Tensors) -> tuple[Tensor, ...]:
            token, position = tensors["token"], tensors["position"]
            residual, states = None, ()
            if RESIDUAL in tensors:
                residual, state = self.tokenizer.residual_step(tensors[RESIDUAL], token, position)
                states = (state,)
            n_cached = n_context + position
            x = self._embed(token[:, None]) + self._residual_embedding(residual)
            x = x + self.position_embedding[n_cached]
            past = (tensors["keys"], tensors["values"])
            hidden, keys, values = self.transformer.step(x, *past, n_cached)
            if residual is None:
                head = self.token_logits
                weight, bias = (self.book(rows, position) for rows in (head.weight, head.bias))
                return F.linear(hidden[:, 0], weight, bias), keys, values
            codewords = self.book(self.codeword_head.codewords, position)
            logits = self.codeword_head.next_logits(hidden[:, 0], residual, position, codewords)
            return logits, keys, values, *states

        with_codewords = self.codeword_head is not None
        return begin, step, ((RESIDUAL,) if with_codewords else ())

    @torch.no_grad()
    def regress_chunk(self, inputs: Inputs) -> Tensor:
        """The regression head's normalized chunk `[B, H, D]`."""
        return self._denormalized_plan(self._context(inputs)[1])

    @torch.no_grad()
    def evaluate(
        self, inputs: Inputs, targets: Targets, generator: torch.Generator
    ) -> dict[str, float]:
        """As of the base class, and `l1_regression`, the error of the regressed chunk."""
        error = (self.regress_chunk(inputs) - targets["chunk"]).abs().mean()
        found = {"l1_regression": float(error)}
        if self.config.acts_by == "regression":
            return {"l1": float(error), **found}
        return {**super().evaluate(inputs, targets, generator), **found}

    def token_log_probs(self, inputs: Inputs, tokens: Tensor) -> Tensor:
        context, plans = self._context(inputs)
        residuals = self._plan_residuals(plans)(tokens)
        logits = self._logits(self._hidden(context, tokens[:, :-1], residuals), residuals, 0)
        legal = (
            self.legal_along(tokens) | (tokens < 0)[..., None]
        )  # rows of padding are ignored later
        return torch.log_softmax(mask_illegal(logits, legal), -1)

    def _cross_entropy(self, hidden: Tensor, residuals: Tensor | None, targets: Targets) -> Tensor:
        legal = self.legal_along(targets["tokens"])
        logits = self._logits(hidden, residuals, 0)
        log_probs = torch.log_softmax(logits.masked_fill(~legal, -1e9), -1)
        wanted = self._target_distribution(targets, legal)
        losses, counted = -(wanted * log_probs).sum(-1), targets["tokens"] >= 0
        return (losses * counted).sum() / counted.sum()

    def _target_distribution(self, targets: Targets, legal: Tensor) -> Tensor:
        temperature, tokens = self.config.target_temperature, targets["tokens"]
        if self.codeword_head is None or "latents" not in targets or not temperature:
            return F.one_hot(tokens.clamp(min=0), self.grammar.vocab_size).float()
        # Beam search may choose a token whose codeword is not the nearest one to the latent; the
        # targets are then centred on the chosen codeword.
        centres = targets["latents"]
        if self.tokenizer.uses_beam_search:
            centres = self.codeword_head.codewords[tokens]
        return self.codeword_head.soft_targets(centres, temperature, legal)

    def _context(self, inputs: Inputs) -> tuple[Tensor, Tensor]:
        """Context vectors `[B, n, dim]` and scaled regressed chunks `[B, 2, H, D]`, float32."""
        inputs = inputs._replace(image_features=self.encode_images(inputs))
        with full_precision(self.device):  # as regression and distances need
            return self._context_of_features(inputs)

    def _context_of_features(self, inputs: Inputs) -> tuple[Tensor, Tensor]:
        observed = self.context_vectors(inputs)  # [B, n - 1, dim]
        plans = self.regression_head(observed.flatten(1)).view(-1, 2, *self._chunk_shape)
        plan = self.plan_projection(plans[:, 0].detach().flatten(1))[:, None]
        return torch.cat([observed, plan], 1), plans

    def _denormalized_plan(self, plans: Tensor) -> Tensor:
        """Scaled plans `[B, 2, H, D]` -> the chunk as the tokenizer takes it, `[B, H, D]`."""
        return plans[:, 0] * self.regression_std[0] + self.regression_mean[0]

    @torch.no_grad()
    def _plan_residuals(self, plans: Tensor) -> Callable[[Tensor], Tensor | None]:
        """Function from the tokens so far `[B, k]` to the vectors `[B, L, E]` that the rest should
        quantize to reproduce the plan; it returns None for tokens without codewords."""
        with full_precision(self.device):
            residuals = self.tokenizer.residual_targets(self._denormalized_plan(plans.detach()))

        def targets(tokens: Tensor) -> Tensor | None:
            if residuals is None:
                return None
            with full_precision(self.device):
                return residuals(tokens)

        return targets

    def _plan_embedding(
        self, residuals: Tensor | None, first: int, count: int = 1
    ) -> Tensor | float:
        if residuals is None:
            return 0.0
        return self.codeword_head.plan_embedding(residuals[:, first : first + count])

    def _hidden(self, context: Tensor, tokens: Tensor, residuals: Tensor | None) -> Tensor:
        """Transformer output `[B, L, dim]` from BOS on, after `tokens` `[B, L - 1]`."""
        embedded = torch.cat([self._bos(context), self._embed(tokens)], 1)
        embedded = embedded + self._plan_embedding(residuals, 0, embedded.shape[1])
        hidden, _ = self.transformer(self._add_positions(torch.cat([context, embedded], 1), 0))
        return hidden[:, context.shape[1] :]

    def _bos(self, context: Tensor) -> Tensor:
        return self.bos.expand(context.shape[0], 1, -1)

    def _add_positions(self, x: Tensor, first: int) -> Tensor:
        return x + self.position_embedding[first : first + x.shape[1]]

    def _embed(self, tokens: Tensor) -> Tensor:
        tokens = tokens.clamp(min=0)  # padding; its rows are complete
        if self.codeword_head is None:
            return self.token_embedding(tokens)
        return self.codeword_head.token_embedding(tokens)

    def _residual_embedding(self, residual: Tensor | None) -> Tensor | float:
        """`[B, 1, dim]` of the residual `[B, E]` of one position."""
        if residual is None:
            return 0.0
        return self.codeword_head.plan_embedding(residual)[:, None]

    def _next_logits(
        self, hidden: Tensor, residual: Tensor | None, position: int, legal: slice
    ) -> Tensor:
        """Hidden states `[B, dim]` -> logits of the tokens `legal` at `position`."""
        if self.codeword_head is not None:
            codewords = self.codeword_head.codewords[legal]
            return self.codeword_head.next_logits(hidden, residual, position, codewords)
        return F.linear(hidden, self.token_logits.weight[legal], self.token_logits.bias[legal])

    def _logits(self, hidden: Tensor, residuals: Tensor | None, first: int) -> Tensor:
        """Hidden states `[B, k, dim]` of positions from `first` on -> logits `[B, k, V]`,
        float32."""
        with full_precision(self.device):
            hidden = hidden.float()
            if self.codeword_head is None:
                return self.token_logits(hidden)
            here = residuals[:, first : first + hidden.shape[1]]
            return self.codeword_head.logits(hidden, here, first)
