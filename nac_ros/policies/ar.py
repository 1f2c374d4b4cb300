"""Autoregressive policy over the grammar of any tokenizer (NAC section 3.3, Algorithm 2).

Three additions to the paper help when demonstrations are few:

- A regression head predicts the chunk from the context (the *plan*). Its loss trains the vision
  encoder, and the transformer sees the plan as one more context vector.
- Where tokens have codewords, logits and training targets follow codeword distances
  (`codeword_head`).
- The latents that the logits are computed from start at the residuals of the plan: the vectors
  that the remaining tokens should quantize so that the sequence reproduces the plan. An untrained
  transformer therefore encodes the plan, and training corrects it.
"""

from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from nac_ros.core.config import number_field
from nac_ros.core.errors import ConfigError
from nac_ros.policies.base import POLICIES, Inputs, Policy, PolicyConfig, Targets
from nac_ros.policies.codeword_head import CodewordHead
from nac_ros.policies.sampling import (
    Sampling,
    TokenSample,
    entropy_and_margin,
    mask_illegal,
    restrict_to_forced,
    sample,
)
from nac_ros.policies.transformer import CausalTransformer
from nac_ros.policies.vision import KeypointEncoder
from nac_ros.tokenizers.base import Tokenizer
from nac_ros.tokenizers.serialization import check_elements

MIN_STD = 0.01  # of a normalized action; smaller deviations are not scaled up further
FIT_SEQUENCES = 256  # training sequences that set the target widths


@dataclass(frozen=True, kw_only=True)
class ArConfig(PolicyConfig):
    """Network sizes and loss weights; the sizes are those of the paper's Table 5.

    target_temperature: of the soft targets, in fitted widths (`CodewordHead.fit`); 0 = one-hot
    regression_weight, future_weight: weights of the regression head's L1 losses, on the chunk and
        on the actions after it
    token_weight: weight of the token loss; with 0 only the vision encoder and the regression head
        are trained, and the regressed chunk is tokenized and executed
    """

    dim: int = number_field(256, 1)
    n_layers: int = number_field(4, 1)
    n_heads: int = number_field(4, 1)
    dropout: float = 0.1
    vision_width: int = number_field(64, 1)
    n_keypoints: int = number_field(32, 1)
    target_temperature: float = 2.0
    regression_weight: float = 1.0
    future_weight: float = 0.3
    token_weight: float = 1.0
    sampling: Sampling = field(default_factory=Sampling)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.dim % self.n_heads or self.vision_width % 32:
            raise ConfigError(
                f"dim {self.dim} must be a multiple of n_heads {self.n_heads}, and "
                f"vision_width {self.vision_width} of 32"
            )


@POLICIES.register("ar")
class ArPolicy(Policy):
    """Decoder-only transformer over [cameras, proprioception, task, plan, BOS, tokens]."""

    name = "ar"
    Config = ArConfig
    token_prefixes = ("codeword_head.", "token_embedding.", "token_logits.")
    task_tables = ("task_embedding.weight",)
    presets = {
        "paper": {},
        "small": {"dim": 192, "sampling": Sampling(top_k=1)},
    }

    def __init__(self, config: ArConfig, preset: str, tokenizer: Tokenizer):
        super().__init__(config, preset)
        # Bound methods, so that the tokenizer's weights are not saved with the policy's.
        self._encode_chunk = tokenizer.encode_normalized
        self._residual_targets = tokenizer.residual_targets
        self._uses_beam_search = tokenizer.uses_beam_search
        self.grammar = tokenizer.grammar
        horizon, action_dim = tokenizer.config.horizon, tokenizer.config.action_dim
        self._chunk_shape = (horizon, action_dim)
        chunk_size, dim = horizon * action_dim, config.dim
        sizes = (config.n_obs_steps, dim, config.vision_width, config.n_keypoints)
        self.vision = nn.ModuleDict({name: KeypointEncoder(*sizes) for name in config.cameras})
        self.state_encoder = nn.Sequential(
            nn.Linear(config.n_obs_steps * config.state_dim, dim), nn.GELU(), nn.Linear(dim, dim)
        )
        self.task_embedding = nn.Embedding(len(config.tasks), dim)
        n_context = len(config.cameras) + 2
        self.regression_head = nn.Sequential(
            nn.Linear(n_context * dim, 512),
            nn.GELU(),
            nn.LayerNorm(512),
            nn.Linear(512, 512),
            nn.GELU(),
            nn.LayerNorm(512),
            nn.Linear(512, 2 * chunk_size),
        )
        # Scale of the regression targets: [0] the chunk, [1] the actions after it.
        self.register_buffer("regression_mean", torch.zeros(2, *self._chunk_shape))
        self.register_buffer("regression_std", torch.ones(2, *self._chunk_shape))
        self.plan_projection = nn.Linear(chunk_size, dim)
        self.bos = nn.Parameter(torch.randn(dim) * 0.02)
        length = n_context + 1 + self.grammar.max_tokens
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

    def vision_parameters(self) -> list[nn.Parameter]:
        return list(self.vision.parameters())

    def encode_images(self, inputs: Inputs) -> Tensor:
        if inputs.image_features is not None:
            return inputs.image_features.float()
        features = [self.vision[name](inputs.images[name]).float() for name in self.config.cameras]
        return torch.stack(features, 1)  # [B, cameras, dim]

    def fit_tokens(self, latents: Tensor | None, tokens: Tensor) -> None:
        """Fits the target widths to training latents `[N, L, E]` and tokens `[N, L]`."""
        if self.codeword_head is not None and latents is not None:
            rows = torch.linspace(0, len(tokens) - 1, min(FIT_SEQUENCES, len(tokens))).long()
            self.codeword_head.fit(latents[rows], tokens[rows], self._legal(tokens[rows]))

    def fit_regression(self, chunk: Tensor, future_actions: Tensor) -> None:
        """Scales the regression to targets `[N, H, D]`: near steps vary less than far ones."""
        targets = torch.stack([chunk, future_actions], 1)
        mean, std = targets.mean(0), targets.std(0).clamp(min=MIN_STD)
        if not (self.regression_std == 1).all():
            # A pretrained head: rescale its last layer so that its predictions do not change.
            last, ratio = self.regression_head[-1], (self.regression_std / std).flatten()
            last.weight.data.mul_(ratio[:, None])
            last.bias.data.mul_(ratio).add_(((self.regression_mean - mean) / std).flatten())
        self.regression_mean.copy_(mean)
        self.regression_std.copy_(std)

    def losses(self, inputs: Inputs, targets: Targets) -> dict[str, Tensor]:
        config, features = self.config, self.encode_images(inputs)
        with torch.autocast("cpu", enabled=False):  # regression and distances need float32
            context, plans = self._context(inputs, features)
        wanted = torch.stack([targets.chunk, targets.future_actions], 1)  # [B, 2, H, D]
        scaled = (wanted - self.regression_mean) / self.regression_std
        error = (plans - scaled).abs().mean((0, 2, 3))
        losses = {
            "regression": config.regression_weight * error[0],
            "future": config.future_weight * error[1],
        }
        if config.token_weight:
            with torch.autocast("cpu", enabled=False):
                residuals = self._plan_residuals(plans)(targets.tokens)
            hidden = self._hidden(context, targets.tokens[:, :-1], residuals)
            with torch.autocast("cpu", enabled=False):
                cross_entropy = self._cross_entropy(hidden.float(), residuals, targets)
            losses["tokens"] = config.token_weight * cross_entropy
        return losses

    @torch.no_grad()
    def sample_tokens(
        self,
        inputs: Inputs,
        generator: torch.Generator | None = None,
        sampling: Sampling | None = None,
        forced: Tensor | None = None,
    ) -> TokenSample:
        context, plans = self._context(inputs, self.encode_images(inputs))
        if not self.config.token_weight:  # the transformer was not trained
            tokens = self._encode_chunk(self._denormalized_plan(plans))
            return TokenSample(tokens, *torch.empty(2, len(tokens), 0))
        # Decoding with a key-value cache. Step k feeds the embedding of token k - 1 (BOS at k = 0,
        # after the context) and samples token k from the grammar's legal ones. The residuals of
        # the plan depend on the tokens chosen so far, so they are computed again after each.
        plan_residuals, sampling = self._plan_residuals(plans), sampling or self.config.sampling
        tokens = torch.empty(len(context), 0, dtype=torch.int64)
        residuals = plan_residuals(tokens)
        start = self._bos(context) + self._plan_embedding(residuals, 0)
        step = self._add_positions(torch.cat([context, start], 1), 0)
        cache, confidences = None, []
        while True:
            position = tokens.shape[1]
            hidden, cache = self.transformer(step, cache)
            logits = self._logits(hidden[:, -1:], residuals, position)[:, 0].float()  # [B, V]
            legal, done = self._next_legal(tokens)
            confidences.append(torch.stack(entropy_and_margin(logits, legal | done[:, None])))
            if forced is not None:
                legal = restrict_to_forced(forced[:, position], legal)
            chosen = sample(logits, legal, done, sampling, generator)
            tokens = torch.cat([tokens, chosen], 1)
            if self.grammar.done(tokens.numpy()).all():
                break
            residuals = plan_residuals(tokens)
            embedded = self._embed(chosen) + self._plan_embedding(residuals, position + 1)
            step = self._add_positions(embedded, context.shape[1] + position + 1)
        return TokenSample(tokens, *torch.stack(confidences, -1))

    @torch.no_grad()
    def regress_chunk(self, inputs: Inputs) -> Tensor:
        """The regression head's normalized chunk `[B, H, D]`, to compare with decoded tokens."""
        return self._denormalized_plan(self._context(inputs, self.encode_images(inputs))[1])

    def token_log_probs(self, inputs: Inputs, tokens: Tensor) -> Tensor:
        context, plans = self._context(inputs, self.encode_images(inputs))
        residuals = self._plan_residuals(plans)(tokens)
        logits = self._logits(self._hidden(context, tokens[:, :-1], residuals), residuals, 0)
        legal = self._legal(tokens) | (tokens < 0)[..., None]  # rows of padding are ignored later
        return torch.log_softmax(mask_illegal(logits, legal), -1)

    def _cross_entropy(self, hidden: Tensor, residuals: Tensor | None, targets: Targets) -> Tensor:
        legal = self._legal(targets.tokens)
        logits = self._logits(hidden, residuals, 0)
        log_probs = torch.log_softmax(logits.masked_fill(~legal, -1e9), -1)
        wanted = self._target_distribution(targets, legal)
        return -(wanted * log_probs).sum(-1)[targets.tokens >= 0].mean()

    def _target_distribution(self, targets: Targets, legal: Tensor) -> Tensor:
        temperature, tokens = self.config.target_temperature, targets.tokens
        if self.codeword_head is None or targets.latents is None or not temperature:
            return F.one_hot(tokens.clamp(min=0), self.grammar.vocab_size).float()
        # Beam search may choose a token whose codeword is not the nearest one to the latent; the
        # targets are then centred on the chosen codeword.
        centres = (
            self.codeword_head.codewords[tokens] if self._uses_beam_search else targets.latents
        )
        return self.codeword_head.soft_targets(centres, temperature, legal)

    def _context(self, inputs: Inputs, features: Tensor) -> tuple[Tensor, Tensor]:
        """Context vectors `[B, n, dim]` and scaled regressed chunks `[B, 2, H, D]`."""
        state = (inputs.proprio - self.state_mean) / self.state_std
        known = torch.stack(
            [self.state_encoder(state.flatten(1)), self.task_embedding(inputs.task)], 1
        )
        observed = torch.cat([features, known], 1)  # [B, cameras + 2, dim]
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
        residuals = self._residual_targets(self._denormalized_plan(plans.detach()))
        return residuals or (lambda tokens: None)

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
        return self.bos.expand(len(context), 1, -1)

    def _add_positions(self, x: Tensor, first: int) -> Tensor:
        return x + self.position_embedding[first : first + x.shape[1]]

    def _embed(self, tokens: Tensor) -> Tensor:
        tokens = tokens.clamp(min=0)  # padding; its rows are complete
        if self.codeword_head is None:
            return self.token_embedding(tokens)
        return self.codeword_head.token_embedding(tokens)

    def _logits(self, hidden: Tensor, residuals: Tensor | None, first: int) -> Tensor:
        """Hidden states `[B, k, dim]` of positions from `first` on -> logits `[B, k, V]`."""
        if self.codeword_head is None:
            return self.token_logits(hidden)
        here = residuals[:, first : first + hidden.shape[1]]
        return self.codeword_head.logits(hidden, here, first)

    def _next_legal(self, tokens: Tensor) -> tuple[Tensor, Tensor]:
        """Tokens that may follow, bool `[B, V]`, and which sequences are complete, bool `[B]`."""
        prefix = tokens.numpy()
        legal, done = self.grammar.legal(prefix), self.grammar.done(prefix)
        return torch.from_numpy(legal.copy()), torch.from_numpy(done.copy())

    def _legal(self, tokens: Tensor) -> Tensor:
        """Which tokens are legal at each position of `tokens` `[B, L]`, bool `[B, L, V]`."""
        rows = [self._next_legal(tokens[:, :k])[0] for k in range(tokens.shape[1])]
        return torch.stack(rows, 1)
