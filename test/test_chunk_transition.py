"""Chunk transitions: best-of-n, constrained tokens, confidence of the sampled tokens."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from nac_ros.core.errors import BadTokens, ConfigError
from nac_ros.core.types import ActionChunk, Observation
from nac_ros.evaluation.rollout import EvaluationConfig, run_evaluation
from nac_ros.export.bundle import load_bundle
from nac_ros.inference.chunk_transition import ChunkTransition, CurrentChunk, TransitionConfig
from nac_ros.inference.engine import Engine
from nac_ros.inference.torch_runtime import TorchRuntime
from nac_ros.policies.base import make_policy
from nac_ros.policies.sampling import entropy_and_margin
from nac_ros.robot.spec import load_robot
from nac_ros.tokenizers import make_tokenizer

SPEC = load_robot("vx300s")
LATENCY_S = 0.2


@pytest.fixture(scope="module")
def bundle(sampling_bundle):
    return load_bundle(sampling_bundle)


def engine_of(bundle, **options):
    return Engine(TorchRuntime(bundle), **options)


def noise_observation(bundle, stamp, seed=0):
    """Noise images with the arm at the home position."""
    config, generator = bundle.policy.config, np.random.default_rng(seed)
    size = config.image_size
    images = {
        name: generator.integers(0, 256, (config.n_obs_steps, size, size, 3), dtype=np.uint8)
        for name in config.cameras
    }
    proprio = np.repeat(SPEC.home[None].astype(np.float32), config.n_obs_steps, 0)
    return Observation(stamp, images, proprio, next(iter(config.tasks)))


def sine_chunk(bundle, stamp):
    """A sine around the home position, unlike anything the policy predicts."""
    t = np.arange(1, bundle.horizon + 1) / bundle.rate_hz
    actions = SPEC.home + 0.05 * np.sin(4 * t)[:, None] * SPEC.relative_mask
    names = SPEC.joint_names
    return ActionChunk(
        stamp, bundle.rate_hz, names, actions.astype(np.float32), np.empty(0, np.int64)
    )


def current_chunk(bundle, stamp):
    """A chunk observed 0.5 s before `stamp`, replaced `LATENCY_S` after it."""
    return CurrentChunk(sine_chunk(bundle, stamp - 0.5), stamp + LATENCY_S)


def deviation(bundle, chunk, before):
    """Mean distance of the committed steps from the chunk `before`."""
    steps = round(LATENCY_S * bundle.rate_hz)
    old = [np.interp(chunk.times, before.times, column) for column in before.actions.T]
    return float(np.abs(chunk.actions - np.stack(old, 1))[:steps, SPEC.relative_mask].mean())


def test_forced_tokens_are_those_of_the_committed_steps(bundle):
    observation, current = noise_observation(bundle, 50.0), current_chunk(bundle, 50.0)
    engine = engine_of(bundle, transition=TransitionConfig(transition="constrained"))
    chunk = engine.predict_chunk(observation, current)
    times = observation.stamp + (np.arange(32) + 1) / 30
    remaining = np.stack(
        [np.interp(times, current.chunk.times, c) for c in current.chunk.actions.T], 1
    )
    expected = bundle.tokenizer.encode(
        remaining[None].astype(np.float32), observation.reference[None]
    )
    spans = bundle.tokenizer.grammar.token_time_spans
    committed = (spans[:, 0] < 6) & (spans[:, 1] <= 16)  # 0.2 s at 30 Hz; 16 steps remain
    assert committed.any() and not committed.all()
    np.testing.assert_array_equal(chunk.tokens[committed], expected.numpy()[0, committed])


def test_constrained_and_best_of_n_chunks_deviate_less_from_the_current_one_than_blended_ones(
    bundle,
):
    found = {}
    for name in ("blend", "best-of-n", "constrained"):
        engine = engine_of(bundle, transition=TransitionConfig(transition=name))
        chunks = [
            (engine.predict_chunk(noise_observation(bundle, 50.0, k), current_chunk(bundle, 50.0)))
            for k in range(4)
        ]
        before = current_chunk(bundle, 50.0).chunk
        found[name] = np.mean([deviation(bundle, chunk, before) for chunk in chunks])
    assert found["best-of-n"] <= found["blend"] and found["constrained"] < found["blend"]


@pytest.mark.parametrize("transition", ["best-of-n", "constrained"])
def test_without_a_current_chunk_every_transition_samples_the_same_tokens(bundle, transition):
    plain = engine_of(bundle).predict_chunk(noise_observation(bundle, 50.0))
    other = engine_of(bundle, transition=TransitionConfig(transition=transition))
    chunk = other.predict_chunk(noise_observation(bundle, 50.0))
    np.testing.assert_array_equal(chunk.tokens, plain.tokens)


def test_best_of_n_selects_the_chunk_that_deviates_least_from_the_current_one(bundle):
    transition = ChunkTransition(TorchRuntime(bundle), TransitionConfig(transition="best-of-n"))
    observation, current = noise_observation(bundle, 50.0), current_chunk(bundle, 50.0)
    times = observation.stamp + (np.arange(32) + 1) / 30
    remaining = np.stack(
        [np.interp(times, current.chunk.times, c) for c in current.chunk.actions.T], 1
    )
    early, late = remaining.copy(), remaining.copy()
    early[:6] += 0.5  # before the replacement: does not count
    late[8:12] += 0.02
    assert transition.select(np.stack([late, early, remaining + 0.1]), observation, current) == 1


def test_constrained_needs_tokens_that_describe_a_span_of_time():
    facts = {"cameras": [], "tasks": {"a": "A."}, "state_dim": 7}
    policy = make_policy("ar", "small", make_tokenizer("oat"), **facts)
    parts = {"path": "b", "robot": SPEC, "policy": policy, "detokenizer": None}
    bundle = SimpleNamespace(**parts, horizon=32, rate_hz=30)
    with pytest.raises(ConfigError, match="ar over the oat tokenizer cannot"):
        ChunkTransition(TorchRuntime(bundle), TransitionConfig(transition="constrained"))
    with pytest.raises(ConfigError, match="unknown transition 'hope'"):
        EvaluationConfig(bundle="b", transition="hope")


def test_tokens_have_the_time_spans_they_describe():
    nac = make_tokenizer("nac").grammar.token_time_spans
    assert nac[:4].tolist() == [[0, 8], [8, 16], [16, 24], [24, 32]]
    assert nac[4:].tolist() == [[4 * k, 4 * k + 4] for k in range(8)]
    assert make_tokenizer("rotated_rvq").grammar.token_time_spans is None
    bins = make_tokenizer("bin").grammar.token_time_spans[[0, 6, 7, 223]]
    assert bins.tolist() == [[0, 1], [0, 1], [1, 2], [31, 32]]


def test_entropy_and_margin_consider_legal_tokens_alone():
    logits = torch.tensor([[0.0, 0.0, -torch.inf], [50.0, 0.0, 0.0]])
    entropy, margin = entropy_and_margin(logits)
    assert entropy.tolist() == pytest.approx([np.log(2), 0.0], abs=1e-6)
    assert margin.tolist() == pytest.approx([0.0, 1.0])


def test_an_illegal_forced_token_is_rejected(bundle):
    inputs = bundle.policy.inputs(noise_observation(bundle, 0.0))
    forced = torch.full((1, 12), -1)
    forced[0, 3] = 2000  # a token of scale 1 at a position of scale 0
    with pytest.raises(BadTokens, match="token 2000 at position 3 is illegal"):
        bundle.policy.sample_tokens(inputs, forced=forced)


def test_an_engine_reports_the_confidence_of_the_policy(bundle):
    engine = engine_of(bundle)
    engine.predict_chunk(noise_observation(bundle, 0.0))
    assert engine.confidence.entropy > 0 and 0 <= engine.confidence.margin <= 1


def test_latency_and_transition_are_applied_and_reported(sampling_bundle):
    config = EvaluationConfig(
        bundle=str(sampling_bundle),
        tasks=("weighing",),
        trials=1,
        transition="constrained",
        latency_ms=200.0,
    )
    results = run_evaluation(config)
    assert results["transition"] == "constrained" and results["latency_ms"] == 200.0
    assert results["transition_jump"]["p99"] >= results["transition_jump"]["p50"] >= 0
    assert results["jerk_rms_ratio"] > 0 and results["tasks"]["weighing"]["successes"] == 1
