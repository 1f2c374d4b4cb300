"""Runs the exported policy of a bundle with ONNX Runtime and numpy; it never imports torch."""

import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from nac_ros.core.errors import BadTokens, BundleError, ConfigError, show_text
from nac_ros.core.observation_spec import unknown_task
from nac_ros.core.sampling import Sampling, choose, entropy_and_margin, log_softmax
from nac_ros.core.types import Observation
from nac_ros.export.bundle_files import (
    DETOKENIZER,
    GOLDEN,
    ROBOT,
    check_limits,
    load_bundle_robot,
    require_files,
)
from nac_ros.export.golden_file import IMAGES, INPUTS, compare, read_golden
from nac_ros.export.manifest import Manifest, read_manifest
from nac_ros.export.onnx_session import OnnxSession
from nac_ros.export.onnx_spec import (
    CONTEXT,
    DECODER,
    DENOISE,
    SPEC,
    STEP,
    OnnxPolicySpec,
    read_onnx_spec,
)
from nac_ros.inference.policy_runtime import ChunkContext, PolicyRuntime, Prediction
from nac_ros.tokenizers.grammar import PAD, FixedGrammar

Arrays = dict[str, np.ndarray]


class OnnxRuntime(PolicyRuntime):
    """The policy of a bundle that was exported with `nac export --runtime onnx`.

    It is verified as with torch: hashes, parts, limits of the robot, golden vectors. Raises
    BundleError.
    """

    name = "onnx"

    def __init__(self, folder: Path | str, threads: int = 1):
        self.path = Path(folder)
        manifest = read_manifest(self.path)
        require_files(self.path, manifest, (SPEC, CONTEXT, ROBOT, GOLDEN))
        self.robot = load_bundle_robot(self.path / ROBOT)
        self._spec = spec = read_onnx_spec(self.path)
        self.observation_spec, self.horizon = spec.observation, spec.horizon
        self.n_action_steps, self.rate_hz = spec.n_action_steps, manifest.rate_hz
        self._normalizer = spec.normalizer

        def load(file: str) -> OnnxSession:
            require_files(self.path, manifest, (file,))
            return OnnxSession(self.path / file, threads)

        self._context = load(CONTEXT)
        self._denoise = load(DENOISE) if spec.method == "denoising" else None
        self._tokens = None
        if spec.tokens is not None:
            self._tokens = TokenSampler(spec, load(STEP), _load_decoder(spec, load, manifest))
        for field, ours, theirs in (
            ("tasks", manifest.tasks, spec.observation.tasks),
            ("horizon", manifest.horizon, spec.horizon),
            ("rate_hz", manifest.rate_hz, self.robot.action_rate_hz),
            ("robot", manifest.robot, self.robot.name),
        ):
            if ours != theirs:
                raise BundleError(
                    f"{self.path}: {field} is {ours} in the manifest and {theirs} in {SPEC} or "
                    f"{ROBOT}; export the bundle again"
                )
        check_limits(self.robot, self.path)
        try:
            self._verify_golden()
        except (BadTokens, ArithmeticError, LookupError, TypeError, ValueError) as error:
            raise BundleError(
                f"{self.path} cannot compute its golden vectors: {show_text(error, 400)}; export "
                "it again"
            ) from error

    def predict(
        self,
        observation: Observation,
        generator: np.random.Generator,
        n_samples: int = 1,
        context: ChunkContext | None = None,
    ) -> Prediction:
        if context is not None and not self.supports_context:
            raise ConfigError(
                f"the {self.describe()} cannot keep committed steps; choose transition blend"
            )
        feeds = self.observation_spec.arrays(observation)
        feeds["task"] = np.array([self.task_index(observation.task)])
        reference, found = observation.reference[None], self._context.run_named(feeds)
        if self._tokens is not None:
            return self._tokens.predict(found, reference, generator, n_samples)
        if self._denoise is not None:
            vectors = np.repeat(found["vectors"], n_samples, 0)
            chunk = self._denoised(vectors, generator, context, reference)
        else:
            chunk = np.repeat(found["chunk"], n_samples, 0)
        return Prediction(self._to_actions(chunk, reference))

    @property
    def supports_context(self) -> bool:
        return self._spec.fixes_steps

    def task_index(self, task: str) -> int:
        """Paraphrases need the text model of the torch runtime, so they are unknown here."""
        index = self.observation_spec.task_index(task)
        if index is None:
            raise unknown_task(task, self.observation_spec.tasks)
        return index

    def describe(self) -> str:
        return f"ONNX export of {self._spec.policy}"

    def _denoised(
        self,
        vectors: np.ndarray,
        generator: np.random.Generator,
        context: ChunkContext | None,
        reference: np.ndarray,
    ) -> np.ndarray:
        """Normalized chunks `[N, H, D]` of context vectors `[N, n, dim]`."""
        shape = (len(vectors), *self._spec.chunk_shape)
        feeds = {"noise": generator.standard_normal(shape, np.float32), "vectors": vectors}
        if self._spec.fixes_steps:
            feeds |= {"current": np.zeros(shape, np.float32), "fixed": np.zeros(shape[:2], bool)}
        if context is not None:
            current = self._normalizer.normalize(context.actions[None], reference)
            feeds["current"] = np.broadcast_to(current.astype(np.float32), shape).copy()
            feeds["fixed"] = np.broadcast_to(context.committed & context.known, shape[:2]).copy()
        return self._denoise.run(feeds)[0]

    def _to_actions(self, chunk: np.ndarray, reference: np.ndarray) -> np.ndarray:
        return self._normalizer.denormalize(chunk, reference).astype(np.float32)

    def _verify_golden(self) -> None:
        """Raises BundleError if the graphs give other outputs than the bundle's policy in torch,
        by the same rule."""
        path = self.path / GOLDEN
        golden = read_golden(path, self.observation_spec, self._tokens is not None)
        feeds = {k: x for k, x in golden.items() if k in INPUTS or k.startswith(IMAGES)}
        reference, found = golden["proprio"][:, -1], self._context.run_named(feeds)
        if self._tokens is not None:
            outputs = self._tokens.golden_outputs(found, golden["tokens"], reference)
        else:
            chunk = found.get("chunk")
            if self._denoise is not None:
                vectors, generator = found["vectors"], np.random.default_rng(0)
                chunk = self._denoised(vectors, generator, None, reference)
            outputs = {"actions": self._to_actions(chunk, reference)}
        compare(outputs, golden, self._tokens is not None, path)


Decoder = Callable[[np.ndarray, np.ndarray], np.ndarray]  # tokens, references -> actions


class TokenSampler:
    """Samples token sequences with the graph `step`, and decodes them.

    The graph predicts the token at one position from a key-value cache of fixed length; what is
    done between two positions, grammar and sampling, is numpy.
    """

    def __init__(self, spec: OnnxPolicySpec, step: OnnxSession, decoder: Decoder):
        rows, columns = spec.chunk_shape
        self._spec, self._step, self._decoder = spec.tokens, step, decoder
        self._grammar = spec.tokens.grammar(rows * columns)

    def predict(
        self,
        begin: Arrays,
        reference: np.ndarray,
        generator: np.random.Generator,
        n_samples: int,
    ) -> Prediction:
        """`n_samples` chunks of one observation.

        begin: outputs of the graph `context`, each `[1, ...]`; reference: `[1, D]`
        """
        length = self._grammar.max_tokens
        uniform = generator.random((1, length), np.float32)
        tokens, logits = self._sample(begin, uniform, self._spec.sampling)
        if n_samples > 1:
            uniform = generator.random((n_samples - 1, length), np.float32)
            more = {name: np.repeat(values, n_samples - 1, 0) for name, values in begin.items()}
            others, other_logits = self._sample(more, uniform, self._spec.candidate_sampling)
            tokens = _stack_padded(tokens, others, PAD)
            logits = _stack_padded(logits, other_logits, 0)
        entropy, margin = entropy_and_margin(logits)
        started = time.perf_counter()
        actions = self._decoder(tokens, np.repeat(reference, n_samples, 0))
        return Prediction(actions, tokens, entropy, margin, time.perf_counter() - started)

    def golden_outputs(self, begin: Arrays, tokens: np.ndarray, reference: np.ndarray) -> Arrays:
        """Log-likelihood `[N]` and actions of given tokens int64 `[N, L]`."""
        self._grammar.check(tokens)
        _, logits = self._sample(begin, None, self._spec.sampling, tokens)
        log_probs, is_token = log_softmax(logits), tokens != PAD
        first = self._first_tokens(tokens.shape[1])
        entries = np.where(is_token, tokens - first, 0)
        of_tokens = np.take_along_axis(log_probs, entries[..., None], 2)[..., 0]
        likelihood = np.where(is_token, of_tokens, 0).sum(1)
        return {"log_likelihood": likelihood, "actions": self._decoder(tokens, reference)}

    def _sample(
        self,
        begin: Arrays,
        uniform: np.ndarray | None,
        sampling: Sampling,
        given: np.ndarray | None = None,
    ) -> tuple[np.ndarray, np.ndarray]:
        """Tokens `[B, L]` and their logits `[B, L, N]`, -inf where illegal.

        uniform: random numbers float32 `[B, max_tokens]`, or None if the tokens `[B, L]` are given
        """
        feeds = dict(begin)
        logits, n_cached = feeds.pop("logits"), begin["keys"].shape[3]
        batch, longest = len(logits), self._grammar.max_tokens
        room = [(0, 0)] * 3 + [(0, longest - 1), (0, 0)]
        feeds |= {name: np.pad(begin[name], room) for name in ("keys", "values")}
        tokens, kept = np.full((batch, longest), PAD), []
        for position in range(longest):
            before = tokens[:, :position]
            logits, first, done = self._legal_logits(logits, before)
            kept.append(logits)
            if given is not None:
                chosen = given[:, position]
            else:
                chosen = first + choose(logits, uniform[:, position], sampling)
                chosen = chosen if done is None else np.where(done, PAD, chosen)
            tokens[:, position] = chosen
            if self._is_complete(tokens[:, : position + 1]):
                break
            feeds["token"] = np.maximum(chosen, 0)  # padding; its row is complete
            feeds["position"] = np.array([position + 1])
            logits, keys, values, *residual = self._step.run(feeds)
            feeds["keys"][:, :, :, n_cached + position] = keys[:, :, :, 0]
            feeds["values"][:, :, :, n_cached + position] = values[:, :, :, 0]
            if residual:
                feeds["residual"] = residual[0]
        return tokens[:, : position + 1], _stack_logits(kept)

    def _legal_logits(
        self, logits: np.ndarray, tokens: np.ndarray
    ) -> tuple[np.ndarray, int, np.ndarray | None]:
        """Logits after tokens `[B, k]`, -inf where illegal; the token of the first of them; and
        which rows are complete, bool `[B]`, or None if they all end together."""
        if isinstance(self._grammar, FixedGrammar):
            position = tokens.shape[1]
            start, stop = self._grammar.starts[position], self._grammar.stops[position]
            if logits.shape[1] > stop - start:
                logits = logits[:, start:stop]
            return logits, start, None
        done = self._grammar.done(tokens)
        legal = self._grammar.legal(tokens) | done[:, None]
        return np.where(legal, logits, np.float32(-np.inf)), 0, done

    def _is_complete(self, tokens: np.ndarray) -> bool:
        if isinstance(self._grammar, FixedGrammar):
            return tokens.shape[1] == self._grammar.max_tokens
        return bool(self._grammar.done(tokens).all())

    def _first_tokens(self, length: int) -> np.ndarray:
        """Token of the first logit at each position, int64 `[length]`."""
        if isinstance(self._grammar, FixedGrammar):
            return np.array(self._grammar.starts[:length])
        return np.zeros(length, np.int64)


class BpeDecoder:
    """Tokens of a BPE over rounded DCT coefficients -> actions [rad or m], as tokenizer `fast`."""

    def __init__(self, spec: OnnxPolicySpec):
        self._pieces = [np.array(piece) for piece in spec.tokens.pieces]
        self._shape, self._scale = spec.chunk_shape, spec.tokens.scale
        self._normalizer = spec.normalizer
        horizon = spec.horizon
        k, t = np.ogrid[:horizon, :horizon]
        self._inverse = np.sqrt(2 / horizon) * np.cos(np.pi * k * (2 * t + 1) / (2 * horizon))
        self._inverse[0] /= np.sqrt(2)  # orthonormal DCT-II; its inverse is the transpose

    def __call__(self, tokens: np.ndarray, reference: np.ndarray) -> np.ndarray:
        rows = [np.concatenate([self._pieces[t] for t in row if t != PAD]) for row in tokens]
        spectrum = np.stack(rows).reshape(-1, *self._shape) / self._scale
        chunk = np.einsum("kt,bkd->btd", self._inverse, spectrum).astype(np.float32)
        return self._normalizer.denormalize(chunk, reference).astype(np.float32)


def _load_decoder(
    spec: OnnxPolicySpec, load: Callable[[str], OnnxSession], manifest: Manifest
) -> Decoder:
    """The bundle's detokenizer, one that was exported for this runtime, or a BPE in numpy."""
    if spec.tokens.pieces:
        return BpeDecoder(spec)
    session = load(DETOKENIZER if DETOKENIZER in manifest.files else DECODER)
    return lambda tokens, reference: session.run({"tokens": tokens, "reference": reference})[0]


def _stack_logits(rows: list[np.ndarray]) -> np.ndarray:
    """Logits `[B, n_k]` of each position -> `[B, L, max n]`, -inf beyond the end of a row.

    Raises BadTokens for NaN.
    """
    widest = max(row.shape[1] for row in rows)
    padded = [
        np.pad(row, ((0, 0), (0, widest - row.shape[1])), constant_values=-np.inf) for row in rows
    ]
    stacked = np.stack(padded, 1)
    if np.isnan(stacked).any():
        raise BadTokens("the policy's logits hold NaN; its weights or inputs are broken")
    return stacked


def _stack_padded(first: np.ndarray, others: np.ndarray, value: float) -> np.ndarray:
    """`[1, L, ...]` and `[n, L', ...]` -> `[1 + n, max(L, L'), ...]`."""
    length = max(first.shape[1], others.shape[1])
    parts = []
    for rows in (first, others):
        missing = [(0, 0), (0, length - rows.shape[1]), *[(0, 0)] * (rows.ndim - 2)]
        parts.append(np.pad(rows, missing, constant_values=value))
    return np.concatenate(parts)
