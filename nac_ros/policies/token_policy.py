"""Policies that predict the tokens of a tokenizer: grammar, sampling, decoding, forced tokens."""

from abc import abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor
from torch.nn.functional import pad

from nac_ros.core.errors import BundleError, ConfigError
from nac_ros.core.normalize import ActionNormalizer
from nac_ros.core.sampling import Sampling
from nac_ros.policies.base import (
    FINGERPRINT,
    Policy,
    PolicyConfig,
    PolicyOutput,
    PredictionContext,
    Targets,
    TokenConfidence,
    is_same_fingerprint,
)
from nac_ros.policies.graphs import EXAMPLES, Graph, Tensors, example_observations, to_inputs
from nac_ros.policies.observation_encoder import Inputs
from nac_ros.policies.sampling import (
    Generator,
    TokenSample,
    check_logits,
    choose,
    draw_uniform,
    entropy_and_margin,
    mask_illegal,
)
from nac_ros.tokenizers.base import Tokenizer
from nac_ros.tokenizers.grammar import PAD, FixedGrammar

N_FINGERPRINT = 8
MAX_KEPT_LOGITS = 1 << 22  # whose confidence is measured at once

# Tokens so far, int64 [B, k] -> logits of the next one, float32 [B, V], or of `token_range(k)`
# alone. It is called first with no token, then with one more each time, so it may keep a cache.
NextTokenLogits = Callable[[Tensor], Tensor]


# For export: Inputs -> outputs of the context graph; tensors -> outputs of the step graph; names
# of the outputs of the context graph after logits, keys and values.
DecodingGraphs = tuple[
    Callable[[Inputs], tuple[Tensor, ...]],
    Callable[[Tensors], tuple[Tensor, ...]],
    tuple[str, ...],
]
RESIDUAL = "residual"  # the only one of these names that a step changes


@dataclass(frozen=True, kw_only=True)
class TokenPolicyConfig(PolicyConfig):
    """sampling: of the executed chunk; candidate_sampling: of further samples (`n_samples` > 1),
    which only differ if it is not greedy"""

    sampling: Sampling = field(default_factory=Sampling)
    candidate_sampling: Sampling = field(default_factory=Sampling)


class TokenPolicy(Policy):
    """A policy over a tokenizer, which is a frozen submodule that is saved on its own.

    A subclass implements `next_token_logits`, `token_log_probs` and `loss`. Where a tokenizer
    cannot encode a chunk, `prepare_targets` raises its BadActions.

    decoder: tokens int64 `[B, L]` -> normalized chunks `[B, H, D]`; a bundle replaces it by its
        ONNX detokenizer
    """

    Config = TokenPolicyConfig
    takes_tokenizer = True

    def __init__(self, config: TokenPolicyConfig, preset: str, tokenizer: Tokenizer):
        super().__init__(config, preset, tokenizer.config)
        self.tokenizer = tokenizer.requires_grad_(False).eval()
        self.grammar = tokenizer.grammar
        self.decoder: Callable[[Tensor], Tensor] = tokenizer.decode_normalized
        self.register_buffer(FINGERPRINT, _fingerprint(tokenizer))
        table = getattr(tokenizer.grammar, "table", None)  # of a FixedGrammar, bool [L, V]
        legal = None if table is None else torch.from_numpy(table)
        self.register_buffer("legal_table", legal, persistent=False)
        lengths = getattr(tokenizer.grammar, "lengths", None)  # of a BpeGrammar, int64 [V]
        lengths = None if lengths is None else torch.from_numpy(lengths)
        self.register_buffer("token_lengths", lengths, persistent=False)

    @abstractmethod
    def next_token_logits(self, inputs: Inputs) -> NextTokenLogits:
        """Function that gives the logits of the next token for each observation."""

    @abstractmethod
    def token_log_probs(self, inputs: Inputs, tokens: Tensor) -> Tensor:
        """Log-probabilities `[B, L, V]` of each next token along `tokens`, -inf where illegal."""

    @property
    def normalizer(self) -> ActionNormalizer:
        return self.tokenizer.normalizer

    @property
    def absolute_normalizer(self) -> ActionNormalizer:
        return self.tokenizer.absolute_normalizer

    @property
    def supports_context(self) -> bool:
        """True if the tokens describe spans of time, so that those of committed steps exist."""
        return self.grammar.token_time_spans is not None

    def describe(self) -> str:
        return f"policy {self.name} over the {self.tokenizer.name} tokenizer"

    @property
    def predicts_tokens(self) -> bool:
        return True

    def train(self, mode: bool = True) -> "TokenPolicy":
        """Sets the mode of the policy; its tokenizer stays in evaluation mode."""
        super().train(mode)
        self.tokenizer.eval()
        return self

    def prepare_targets(self, actions: Tensor, references: Tensor) -> Targets:
        """Chunk and tokens int64 `[B, L]`; where tokens have vectors also `latents` `[B, L, E]`,
        the vectors that they quantize."""
        chunk = self.tokenizer.normalize(actions[:, : self.chunk_spec.horizon], references)
        targets = {"chunk": chunk, "tokens": self.tokenizer.encode_normalized(chunk)}
        with torch.no_grad():
            residual_targets = self.tokenizer.residual_targets(chunk)
            if residual_targets is not None:
                targets["latents"] = residual_targets(targets["tokens"])
        return targets

    @torch.no_grad()
    def predict(
        self,
        inputs: Inputs,
        n_samples: int = 1,
        context: PredictionContext | None = None,
        generator: Generator = None,
    ) -> PolicyOutput:
        forced = None if context is None else self._forced_tokens(context)
        if self.config.cameras:
            inputs = inputs._replace(image_features=self.encode_images(inputs))
        found = self.sample_tokens(inputs, generator, self.config.sampling, forced)
        if n_samples > 1:
            more = _repeat(inputs._replace(images={}), n_samples - 1)
            forced = None if forced is None else forced.repeat_interleave(n_samples - 1, 0)
            others = self.sample_tokens(more, generator, self.config.candidate_sampling, forced)
            found = _interleave(found, others, n_samples)
        confidence = TokenConfidence(found.entropy, found.margin)
        return PolicyOutput(self.decoder(found.tokens), found.tokens, confidence)

    @torch.no_grad()
    def sample_tokens(
        self,
        inputs: Inputs,
        generator: Generator = None,
        sampling: Sampling | None = None,
        forced: Tensor | None = None,
    ) -> TokenSample:
        """Samples complete token sequences of the grammar.

        sampling: None = that of the config
        forced: int64 `[B, L]`, the token that a position must have, or -1
        """
        logits_of, sampling = self.next_token_logits(inputs), sampling or self.config.sampling
        shape = (len(inputs.proprio), self.grammar.max_tokens)
        uniform = draw_uniform(shape, generator, self.device)
        tokens = torch.full(shape, PAD, dtype=torch.int64, device=self.device)
        if forced is not None:
            self._check_forced(forced)
        confidence, length, is_complete = ConfidenceMeter(), 0, False
        while not is_complete:
            before = tokens[:, :length]
            logits, first, done = self._legal_logits(logits_of(before), before)
            chosen = first + choose(logits, uniform[:, length], sampling)
            if forced is not None and length < forced.shape[1]:
                wanted = forced[:, length]
                chosen = torch.where(wanted >= 0, wanted, chosen)
            tokens[:, length] = chosen if done is None else chosen.masked_fill(done, PAD)
            confidence.add(logits)
            length += 1
            is_complete = self._are_complete(tokens[:, :length])
        return TokenSample(tokens[:, :length].contiguous(), *confidence.measure())

    def token_range(self, position: int) -> slice:
        """Tokens that are legal at a position whatever came before; all without a FixedGrammar."""
        if isinstance(self.grammar, FixedGrammar):
            return slice(self.grammar.starts[position], self.grammar.stops[position])
        return slice(0, self.grammar.vocab_size)

    def graphs(self) -> dict[str, Graph]:
        """`context` gives the `logits` of the first token and the keys and values of the sequence
        so far; `step` takes token `position` - 1 and gives those of the next one.

        Logits are of `token_range` where all ranges are equally long books of the vocabulary
        (`equal_books`), else of all tokens. All outputs of `context` but `logits` are inputs of
        `step`; `keys` and `values` with room for the whole sequence.
        """
        observed = example_observations(self.observation_spec)
        begin, step, extras = self.decoding_graphs()
        names = ("logits", "keys", "values", *extras)
        context = Graph(lambda tensors: begin(to_inputs(tensors)), observed, names)
        with torch.no_grad():
            found = dict(zip(names, context.function(observed)))
        room = (0, 0, 0, self.grammar.max_tokens - 1)
        inputs = {key: found[key] for key in extras}
        inputs |= {key: pad(found[key], room) for key in ("keys", "values")}
        inputs["token"] = torch.zeros(EXAMPLES, dtype=torch.int64)
        inputs["position"] = torch.ones(1, dtype=torch.int64)
        changed = ("keys", "values", *(key for key in extras if key == RESIDUAL))
        outputs = ("logits", *(f"next_{key}" for key in changed))
        return {"context": context, "step": Graph(step, inputs, outputs, ("position",))}

    def decoding_graphs(self) -> DecodingGraphs:
        """The functions of `graphs`; raises ConfigError if the policy cannot be exported."""
        raise ConfigError(f"{self.describe()} has no ONNX export; export it with --runtime torch")

    @property
    def equal_books(self) -> tuple[int, list[int]] | None:
        """Length of every `token_range`, and the index of each position's among the consecutive
        books of that length; None if the ranges are no such books."""
        grammar = self.grammar
        if not isinstance(grammar, FixedGrammar):
            return None
        sizes = {stop - start for start, stop in zip(grammar.starts, grammar.stops)}
        size = sizes.pop()
        if sizes or grammar.vocab_size % size or any(start % size for start in grammar.starts):
            return None
        return size, [start // size for start in grammar.starts]

    def book(self, rows: Tensor, position: Tensor) -> Tensor:
        """Rows `[V, ...]` of the tokens that are legal at `position` int64 `[1]`, for export; all
        rows without `equal_books`."""
        if (books := self.equal_books) is None or len(set(books[1])) == 1:
            return rows
        size, of_position = books
        index = torch.tensor(of_position, device=rows.device)[position]
        return rows.unflatten(0, (-1, size))[index][0]

    def _legal_logits(self, logits: Tensor, tokens: Tensor) -> tuple[Tensor, int, Tensor | None]:
        """Logits of `token_range` after tokens `[B, k]`, -inf where illegal; the first token of
        the range; and which rows are complete, bool `[B]`, None if they all end together."""
        legal = self.token_range(tokens.shape[1])
        if logits.shape[1] > legal.stop - legal.start:
            logits = logits[:, legal]
        if isinstance(self.grammar, FixedGrammar):
            return logits, legal.start, None
        allowed, done = self.next_legal(tokens)
        return mask_illegal(logits, allowed | done[:, None]), 0, done

    def _check_forced(self, forced: Tensor) -> None:
        """Raises BadTokens for a forced token `[B, L]` that is illegal at its position."""
        if isinstance(self.grammar, FixedGrammar):
            starts = torch.tensor(self.grammar.starts[: forced.shape[1]], device=forced.device)
            self.grammar.check_prefix(torch.where(forced < 0, starts, forced).cpu().numpy())

    @torch.no_grad()
    def evaluate(
        self, inputs: Inputs, targets: Targets, generator: torch.Generator
    ) -> dict[str, float]:
        """`l1` as in the base class, and the share of predicted tokens equal to the targets'."""
        output = self.predict(inputs, generator=generator)
        error = (output.chunk - targets["chunk"]).abs().mean()
        accuracy = token_accuracy(output.tokens, targets["tokens"])
        return {"l1": float(error), "token_accuracy": accuracy}

    @torch.no_grad()
    def golden_outputs(self, inputs: Inputs, tokens: Tensor | None) -> dict[str, Tensor]:
        """Log-likelihood `[N]` of the golden tokens: sampled ones may differ between machines."""
        log_probs = self.token_log_probs(inputs, tokens)  # [N, L, V]
        of_tokens = log_probs.gather(2, tokens.clamp(min=0)[..., None])[..., 0]
        likelihood = of_tokens.masked_fill(tokens < 0, 0).sum(1)
        return {"log_likelihood": likelihood, "chunk": self.decoder(tokens)}

    def next_legal(self, tokens: Tensor) -> tuple[Tensor, Tensor]:
        """Tokens that may follow `[B, k]`, bool `[B, V]`, and complete sequences, bool `[B]`."""
        if self.legal_table is not None:
            return self._fixed_legal(tokens)
        if self.token_lengths is not None:
            left = self.grammar.total - self._lengths_of(tokens).sum(1)
            return self.token_lengths <= left[:, None], left == 0
        prefix = tokens.cpu().numpy()
        legal, done = self.grammar.legal(prefix), self.grammar.done(prefix)
        on = {"device": tokens.device}
        return torch.tensor(legal, **on), torch.tensor(done, **on)

    def legal_along(self, tokens: Tensor) -> Tensor:
        """Which tokens are legal at each position of `tokens` `[B, L]`, bool `[B, L, V]`."""
        if self.token_lengths is not None:
            lengths = self._lengths_of(tokens)
            left = self.grammar.total - lengths.cumsum(1) + lengths  # before each position
            return self.token_lengths <= left[..., None]
        rows = [self.next_legal(tokens[:, :k])[0] for k in range(tokens.shape[1])]
        return torch.stack(rows, 1)

    def check_loaded(self, path: Path) -> None:
        found, wanted = getattr(self, FINGERPRINT), _fingerprint(self.tokenizer)
        if not is_same_fingerprint(found, wanted):
            raise BundleError(
                f"{path}: the policy was trained over another {self.tokenizer.name} tokenizer; "
                "give the one of its training"
            )

    def _fixed_legal(self, tokens: Tensor) -> tuple[Tensor, Tensor]:
        """The same as `next_legal` without leaving the device: only the position matters."""
        batch, position = tokens.shape
        table, is_done = self.legal_table, position >= self.grammar.max_tokens
        row = torch.zeros_like(table[0]) if is_done else table[position]
        done = torch.full((batch,), is_done, device=tokens.device)
        return row.expand(batch, -1), done

    def _lengths_of(self, tokens: Tensor) -> Tensor:
        """Lengths of the tokens of a BpeGrammar, 0 for padding, int64 `[B, k]`."""
        return self.token_lengths[tokens.clamp(min=0)] * (tokens >= 0)

    def _are_complete(self, tokens: Tensor) -> bool:
        if self.legal_table is not None:
            return tokens.shape[1] >= self.grammar.max_tokens
        return bool(self.next_legal(tokens)[1].all())

    def _forced_tokens(self, context: PredictionContext) -> Tensor:
        """Tokens `[B, L]` of the current chunk whose time span starts in a committed step and
        ends within the chunk; -1 elsewhere."""
        spans = self.grammar.token_time_spans
        if spans is None:
            raise ConfigError(
                f"the tokens of tokenizer {self.tokenizer.name} describe the whole chunk, so none "
                "belong to its committed steps; choose transition blend or best-of-n"
            )
        tokens = self.tokenizer.encode_normalized(context.actions)
        first, last = spans[:, 0].tolist(), (spans[:, 1] - 1).tolist()
        forced = context.committed[:, first] & context.known[:, last]
        return tokens.masked_fill(~forced, -1)


class ConfidenceMeter:
    """Entropy and margin of logits, computed for many positions at once."""

    def __init__(self) -> None:
        self._logits = list[Tensor]()
        self._measured = list[tuple[Tensor, Tensor]]()  # each `[B, k]`

    def add(self, logits: Tensor) -> None:
        """Logits `[B, n]` of the next position, -inf where illegal."""
        self._logits.append(logits)
        if len(self._logits) * logits.numel() > MAX_KEPT_LOGITS:
            self._flush()

    def measure(self) -> tuple[Tensor, Tensor]:
        """Entropy and margin `[B, L]`; raises BadTokens if a logit is NaN."""
        if self._logits:
            self._flush()
        entropies, margins = zip(*self._measured)
        return torch.cat(entropies, 1), torch.cat(margins, 1)

    def _flush(self) -> None:
        widest = max(row.shape[1] for row in self._logits)
        rows = [pad(row, (0, widest - row.shape[1]), value=-torch.inf) for row in self._logits]
        stacked = torch.stack(rows, 1)
        check_logits(stacked)
        self._measured.append(entropy_and_margin(stacked))
        self._logits = []


def token_accuracy(tokens: Tensor, wanted: Tensor) -> float:
    """Share of the wanted tokens `[B, L']` that `tokens` `[B, L]` has at the same position."""
    length = min(tokens.shape[1], wanted.shape[1])
    equal = tokens[:, :length] == wanted[:, :length]
    return float(equal[wanted[:, :length] != PAD].float().mean())


def _fingerprint(tokenizer: Tokenizer) -> Tensor:
    """Float32 `[N]` that tells tokenizers apart by their codewords, or without codewords by their
    vocabulary, and by their statistics; equal up to FINGERPRINT_TOLERANCE on another machine."""
    embeddings = tokenizer.embeddings()
    if embeddings is None:
        sizes = [float(tokenizer.grammar.vocab_size), float(tokenizer.grammar.max_tokens)]
        embeddings = tokenizer.low.new_tensor(sizes)
    parts = [embeddings, tokenizer.low, tokenizer.high]
    values = torch.cat([part.detach().double().flatten() for part in parts])
    scale = values.square().mean().sqrt().clamp(min=1e-9)
    index = torch.arange(len(values), dtype=torch.float64, device=values.device)
    rows = [scale]
    for k in range(1, N_FINGERPRINT):
        weights = 1 + torch.cos(0.7 * k * index)  # depends on the order of the values
        rows.append((weights * torch.sin(k * values / scale)).mean())
    return torch.stack(rows).float()


def _repeat(inputs: Inputs, n: int) -> Inputs:
    """Each observation `n` times in a row; images are left out."""
    rows = (None if x is None else x.repeat_interleave(n, 0) for x in inputs[1:])
    return Inputs({}, *rows)


def _interleave(first: TokenSample, others: TokenSample, n: int) -> TokenSample:
    """Samples `[B, L]` and `[B * (n - 1), L']` -> `[B * n, max(L, L')]`, padded."""

    def join(a: Tensor, b: Tensor) -> Tensor:
        length = max(a.shape[1], b.shape[1])
        a, b = (pad(x, (0, length - x.shape[1]), value=PAD) for x in (a, b))
        return torch.cat([a[:, None], b.unflatten(0, (len(a), n - 1))], 1).flatten(0, 1)

    return TokenSample(*(join(a, b) for a, b in zip(first, others)))
