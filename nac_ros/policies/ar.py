"""Autoregressive policy over any tokenizer's grammar (NAC section 3.3, Algorithm 2).

Three additions to the paper, all for learning from few demonstrations. A head regresses the
chunk from the context; it teaches the vision encoder, and its plan is shown to the transformer.
Where tokens have a geometry (codewords), a logit falls with the squared distance between the
codeword and a predicted latent, and the target is softened over the codebook the same way:
codewords that mean nearly the same motion then share what is learned about it. And what the
tokenizer would still have to name of the plan, after the tokens said so far, is where the
predicted latents start from, so that an untaught transformer says the plan, and a taught one
corrects it.
"""

from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from nac_ros.core.errors import ConfigError
from nac_ros.policies.base import POLICIES, Inputs, Policy, PolicyConfig, Targets
from nac_ros.policies.codeword_head import CodewordHead
from nac_ros.policies.sampling import (
    Sampling,
    TokenSample,
    certainty,
    legal_logits,
    restrict_to_forced,
    sample,
)
from nac_ros.policies.transformer import CausalTransformer
from nac_ros.policies.vision import KeypointEncoder
from nac_ros.tokenizers.base import Tokenizer
from nac_ros.tokenizers.serialization import check_elements

LEAST_STD = 0.01  # of a normalised action; steps that hardly vary are not blown up further
FITTED = 256  # sequences from which the widths of targets are taken; all rated against all tokens


@dataclass(frozen=True, kw_only=True)
class ArConfig(PolicyConfig):
    """Sizes; the defaults are the paper's Table 5.

    softness: width of the softened targets, in those of `TokenGeometry.fit`; 0 = hard
    free_logits: learned logits per token beside the geometric ones
    plan_weight, future_weight: weights of the regression heads' L1 losses, on the chunk and on
        where the motion leads after it
    token_weight: weight of the tokens' loss; 0 = teach only eyes and plan, and act by the plan,
        in the tokenizer's words
    """

    dim: int = 256
    n_layers: int = 4
    n_heads: int = 4
    dropout: float = 0.1
    vision_width: int = 64
    n_keypoints: int = 32
    softness: float = 2.0
    free_logits: bool = False
    plan_weight: float = 1.0
    future_weight: float = 0.3
    token_weight: float = 1.0
    sampling: Sampling = field(default_factory=Sampling)

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("dim", "n_layers", "n_heads", "vision_width", "n_keypoints"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name} must be at least 1, got {getattr(self, name)}")
        if self.dim % self.n_heads or self.vision_width % 32:
            raise ConfigError(
                f"dim {self.dim} must be a multiple of n_heads {self.n_heads}, and "
                f"vision_width {self.vision_width} of 32"
            )


@POLICIES.register("ar")
class ArPolicy(Policy):
    """Context (cameras, proprioception, task, plan) then BOS and tokens, decoder only."""

    name = "ar"
    Config = ArConfig
    token_parts = ("geometry.", "free_embed.", "free_logits.")
    task_parts = ("task.weight",)
    presets = {
        "paper": {},
        "small": {"dim": 192, "sampling": Sampling(top_k=1)},
    }

    def __init__(self, config: ArConfig, preset: str, tokenizer: Tokenizer):
        super().__init__(config, preset)
        self.grammar, self._say = tokenizer.grammar, tokenizer.encode_normalized
        self._name, self._searched = tokenizer.residual_targets, tokenizer.uses_beam_search
        facts = tokenizer.config
        self._chunk = (facts.horizon, facts.action_dim)
        flat, dim = facts.horizon * facts.action_dim, config.dim
        self.vision = nn.ModuleDict(
            {
                camera: KeypointEncoder(
                    config.n_obs_steps, dim, config.vision_width, config.n_keypoints
                )
                for camera in config.cameras
            }
        )
        self.state = nn.Sequential(
            nn.Linear(config.n_obs_steps * config.state_dim, dim), nn.GELU(), nn.Linear(dim, dim)
        )
        self.task = nn.Embedding(len(config.tasks), dim)
        n_context = len(config.cameras) + 2
        self.planner = nn.Sequential(
            nn.Linear(n_context * dim, 512), nn.GELU(), nn.LayerNorm(512),
            nn.Linear(512, 512), nn.GELU(), nn.LayerNorm(512), nn.Linear(512, 2 * flat),
        )  # fmt: skip
        self.register_buffer("plan_mean", torch.zeros(2, *self._chunk))  # the chunk, and later
        self.register_buffer("plan_std", torch.ones(2, *self._chunk))
        self.show_plan = nn.Linear(flat, dim)
        self.bos = nn.Parameter(torch.randn(dim) * 0.02)
        length = n_context + 1 + self.grammar.max_tokens
        check_elements("the positions", length, dim)
        self.position = nn.Parameter(torch.randn(length, dim) * 0.02)
        self.transformer = CausalTransformer(
            dim, config.n_layers, config.n_heads, config.dropout, n_context + 1
        )
        self._add_heads(tokenizer)

    def vision_parameters(self) -> list[nn.Parameter]:
        return list(self.vision.parameters())

    def encode_images(self, inputs: Inputs) -> Tensor:
        if inputs.image_features is not None:
            return inputs.image_features.float()
        seen = [self.vision[name](inputs.images[name]).float() for name in self.config.cameras]
        return torch.stack(seen, 1)  # [B, cameras, dim]

    def fit_tokens(self, latents: Tensor | None, tokens: Tensor) -> None:
        """Statistics of the training targets, latents `[N, L, E]` and tokens `[N, L]`."""
        if self.geometry is not None and latents is not None:
            some = torch.linspace(0, len(tokens) - 1, min(FITTED, len(tokens))).long()
            self.geometry.fit(latents[some], tokens[some], self._legal(tokens[some]))

    def fit_plan(self, chunk: Tensor, later: Tensor) -> None:
        """Scales the regression to targets `[N, H, D]`: near steps move less than far ones."""
        both = torch.stack([chunk, later], 1)
        mean, std = both.mean(0), both.std(0).clamp(min=LEAST_STD)
        if not (self.plan_std == 1).all():  # taught before: what it plans stays the same
            last, grown = self.planner[-1], (self.plan_std / std).flatten()
            last.weight.data.mul_(grown[:, None])
            last.bias.data.mul_(grown).add_(((self.plan_mean - mean) / std).flatten())
        self.plan_mean.copy_(mean)
        self.plan_std.copy_(std)

    def losses(self, inputs: Inputs, targets: Targets) -> dict[str, Tensor]:
        config, seen = self.config, self.encode_images(inputs)
        with torch.autocast("cpu", enabled=False):  # a plan needs float32, and so do distances
            context, plans = self._context(inputs, seen)
        wanted = torch.stack([targets.chunk, targets.future_actions], 1)  # [B, 2, H, D]
        error = (plans - (wanted - self.plan_mean) / self.plan_std).abs().mean((0, 2, 3))
        losses = {"plan": config.plan_weight * error[0], "later": config.future_weight * error[1]}
        if config.token_weight:
            with torch.autocast("cpu", enabled=False):
                planned = self._naming(plans)(targets.tokens)
            hidden = self._hidden(context, targets.tokens[:, :-1], planned)
            with torch.autocast("cpu", enabled=False):
                cross_entropy = self._cross_entropy(hidden.float(), planned, targets)
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
        if not self.config.token_weight:
            return TokenSample(self._say(self._chunk_of(plans)), *torch.empty(2, len(context), 0))
        naming, tokens = self._naming(plans), torch.empty(len(context), 0, dtype=torch.int64)
        planned, how = naming(tokens), sampling or self.config.sampling
        start, sureness = self._bos(context) + self._hint(planned, 0), []
        step, cache = self._with_positions(torch.cat([context, start], 1), 0), None
        while True:
            hidden, cache = self.transformer(step, cache)
            at = tokens.shape[1]
            logits = self._logits(hidden[:, -1:], planned, at)[:, 0].float()
            legal, done = self._next(tokens)
            sureness.append(torch.stack(certainty(logits, legal | done[:, None])))
            legal = legal if forced is None else restrict_to_forced(forced[:, at], legal)
            chosen = sample(logits, legal, done, how, generator)
            tokens = torch.cat([tokens, chosen], 1)
            if self.grammar.done(tokens.numpy()).all():
                return TokenSample(tokens, *torch.stack(sureness, -1))
            planned = naming(tokens)
            said = self._embed(chosen.clamp(min=0)) + self._hint(planned, at + 1)
            step = self._with_positions(said, context.shape[1] + at + 1)

    @torch.no_grad()
    def plan(self, inputs: Inputs) -> Tensor:
        """The regression head's normalised chunk `[B, H, D]`, for comparison."""
        return self._chunk_of(self._context(inputs, self.encode_images(inputs))[1])

    def token_log_probs(self, inputs: Inputs, tokens: Tensor) -> Tensor:
        """Log-probabilities `[B, L, V]` of each next token along `tokens`, -inf where illegal."""
        context, plans = self._context(inputs, self.encode_images(inputs))
        planned = self._naming(plans)(tokens)
        logits = self._logits(self._hidden(context, tokens[:, :-1], planned), planned, 0)
        legal = self._legal(tokens) | (tokens < 0)[..., None]  # padding is rated, and left out
        return torch.log_softmax(legal_logits(logits, legal), -1)

    def _next(self, tokens: Tensor) -> tuple[Tensor, Tensor]:
        """Which tokens may follow `[B, V]`, and which sequences are complete `[B]`."""
        prefix = tokens.numpy()
        legal, done = self.grammar.legal(prefix), self.grammar.done(prefix)
        return torch.from_numpy(legal.copy()), torch.from_numpy(done.copy())

    def _cross_entropy(self, hidden: Tensor, planned: Tensor | None, targets: Targets) -> Tensor:
        legal = self._legal(targets.tokens)
        logits = self._logits(hidden, planned, 0)
        likelihood = torch.log_softmax(logits.masked_fill(~legal, -1e9), -1)
        wanted = self._target_distribution(targets, legal)
        return -(wanted * likelihood).sum(-1)[targets.tokens >= 0].mean()

    def _add_heads(self, tokenizer: Tokenizer) -> None:
        vectors, dim = tokenizer.embeddings(), self.config.dim
        positions = self.grammar.max_tokens
        self.geometry = None if vectors is None else CodewordHead(vectors, dim, positions)
        free = vectors is None or self.config.free_logits
        self.free_embed = nn.Embedding(self.grammar.vocab_size, dim) if vectors is None else None
        self.free_logits = nn.Linear(dim, self.grammar.vocab_size) if free else None

    def _context(self, inputs: Inputs, seen: Tensor) -> tuple[Tensor, Tensor]:
        """What the transformer is shown `[B, n, dim]`, and the scaled plans `[B, 2, H, D]`."""
        state = self.state(((inputs.proprio - self.state_mean) / self.state_std).flatten(1))
        known = torch.stack([state, self.task(inputs.task)], 1)
        parts = torch.cat([seen, known], 1)  # [B, n, dim]
        plans = self.planner(parts.flatten(1)).view(-1, 2, *self._chunk)
        shown = self.show_plan(plans[:, 0].detach().flatten(1))[:, None]
        return torch.cat([parts, shown], 1), plans

    def _chunk_of(self, plans: Tensor) -> Tensor:
        return plans[:, 0] * self.plan_std[0] + self.plan_mean[0]  # [B, H, D], normalised

    @torch.no_grad()
    def _naming(self, plans: Tensor) -> Callable[[Tensor], Tensor | None]:
        """How the tokenizer names the plan; None comes of it where tokens have no geometry."""
        return self._name(self._chunk_of(plans.detach())) or (lambda tokens: None)

    def _hint(self, planned: Tensor | None, first: int, count: int = 1) -> Tensor | float:
        return 0.0 if planned is None else self.geometry.hint(planned[:, first : first + count])

    def _hidden(self, context: Tensor, tokens: Tensor, planned: Tensor | None) -> Tensor:
        said = torch.cat([self._bos(context), self._embed(tokens.clamp(min=0))], 1)
        said = said + self._hint(planned, 0, said.shape[1])
        hidden, _ = self.transformer(self._with_positions(torch.cat([context, said], 1), 0))
        return hidden[:, context.shape[1] :]  # [B, L, dim], from BOS on

    def _bos(self, context: Tensor) -> Tensor:
        return self.bos.expand(len(context), 1, -1)

    def _with_positions(self, x: Tensor, first: int) -> Tensor:
        return x + self.position[first : first + x.shape[1]]

    def _embed(self, tokens: Tensor) -> Tensor:
        if self.free_embed is not None:
            return self.free_embed(tokens)
        return self.geometry.embedding(tokens)

    def _logits(self, hidden: Tensor, planned: Tensor | None, first: int) -> Tensor:
        logits = self.free_logits(hidden) if self.free_logits is not None else 0
        if self.geometry is None:
            return logits
        here = planned[:, first : first + hidden.shape[1]]
        return logits + self.geometry.logits(hidden, here, first)

    def _legal(self, tokens: Tensor) -> Tensor:
        prefix = tokens.numpy()
        rows = [self.grammar.legal(prefix[:, :k]) for k in range(tokens.shape[1])]
        return torch.stack([torch.from_numpy(row.copy()) for row in rows], 1)  # [B, L, V]

    def _target_distribution(self, targets: Targets, legal: Tensor) -> Tensor:
        softness = self.config.softness
        if self.geometry is None or targets.latents is None or softness == 0:
            return F.one_hot(targets.tokens.clamp(min=0), self.grammar.vocab_size).float()
        # a token of a search need not be the nearest; then it is itself what is taught
        found = self.geometry.vectors[targets.tokens] if self._searched else targets.latents
        return self.geometry.targets(found, softness, legal)
