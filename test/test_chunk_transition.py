"""How a chunk goes on from the one under way: best of several, or with committed tokens forced."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from nac_ros.core.config import config_dir
from nac_ros.core.errors import BadTokens, ConfigError
from nac_ros.core.types import ActionChunk, Observation
from nac_ros.evaluation.rollout import EvaluationConfig, run
from nac_ros.export.bundle import load_bundle
from nac_ros.inference.chunk_transition import ChunkTransition, CurrentChunk, TransitionConfig
from nac_ros.inference.engine import Engine
from nac_ros.policies.sampling import entropy_and_margin, restrict_to_forced
from nac_ros.robot.spec import load_robot
from nac_ros.tokenizers import make_tokenizer

SPEC = load_robot("vx300s")
SHIPPED = config_dir().parent / "models" / "default"
LATENCY_S = 0.2


@pytest.fixture(scope="module")
def bundle():
    return load_bundle(SHIPPED)


def seen(bundle, stamp, seed=0):
    """An observation of noise, the arm at home."""
    config, generator = bundle.policy.config, np.random.default_rng(seed)
    size = config.image_size
    images = {
        name: generator.integers(0, 256, (config.n_obs_steps, size, size, 3), dtype=np.uint8)
        for name in config.cameras
    }
    proprio = np.repeat(SPEC.home[None].astype(np.float32), config.n_obs_steps, 0)
    return Observation(stamp, images, proprio, next(iter(config.tasks)))


def swaying(bundle, stamp):
    """A chunk around home that the policy would not think of."""
    t = np.arange(1, bundle.horizon + 1) / bundle.rate_hz
    actions = SPEC.home + 0.05 * np.sin(4 * t)[:, None] * SPEC.relative_mask
    names = SPEC.joint_names
    return ActionChunk(
        stamp, bundle.rate_hz, names, actions.astype(np.float32), np.empty(0, np.int64)
    )


def underway(bundle, stamp):
    """A chunk observed half a second before, to be executed for `LATENCY_S` more."""
    return CurrentChunk(swaying(bundle, stamp - 0.5), stamp + LATENCY_S)


def strayed(bundle, chunk, before):
    """Largest distance from what was under way over the steps that are committed."""
    steps = round(LATENCY_S * bundle.rate_hz)
    old = [np.interp(chunk.times, before.times, column) for column in before.actions.T]
    return float(np.abs(chunk.actions - np.stack(old, 1))[:steps, SPEC.relative_mask].mean())


def test_forced_tokens_are_those_that_name_what_is_committed(bundle):
    observation, going = seen(bundle, 50.0), underway(bundle, 50.0)
    engine = Engine(bundle, transition=TransitionConfig(transition="constrained"))
    chunk = engine.predict_chunk(observation, going)
    times = observation.stamp + (np.arange(32) + 1) / 30
    ahead = np.stack([np.interp(times, going.chunk.times, c) for c in going.chunk.actions.T], 1)
    named = bundle.tokenizer.encode(ahead[None].astype(np.float32), observation.reference[None])
    stretches = bundle.tokenizer.grammar.token_time_spans
    committed = (stretches[:, 0] < 6) & (stretches[:, 1] <= 16)  # 0.2 s of 30 Hz; 16 steps known
    assert committed.any() and not committed.all()
    np.testing.assert_array_equal(chunk.tokens[committed], named.numpy()[0, committed])


def test_forcing_and_choosing_stray_less_from_what_is_under_way_than_blending(bundle):
    found = {}
    for name in ("blend", "best-of-n", "constrained"):
        engine = Engine(bundle, transition=TransitionConfig(transition=name))
        chunks = [
            (engine.predict_chunk(seen(bundle, 50.0, k), underway(bundle, 50.0))) for k in range(4)
        ]
        before = underway(bundle, 50.0).chunk
        found[name] = np.mean([strayed(bundle, chunk, before) for chunk in chunks])
    assert found["best-of-n"] <= found["blend"] and found["constrained"] < found["blend"]


@pytest.mark.parametrize("transition", ["best-of-n", "constrained"])
def test_with_nothing_under_way_every_transition_says_the_same(bundle, transition):
    plain = Engine(bundle).predict_chunk(seen(bundle, 50.0))
    chunk = Engine(bundle, transition=TransitionConfig(transition=transition)).predict_chunk(
        seen(bundle, 50.0)
    )
    np.testing.assert_array_equal(chunk.tokens, plain.tokens)


def test_of_several_chunks_the_one_that_goes_on_best_is_taken(bundle):
    continuation = ChunkTransition(bundle, TransitionConfig(transition="best-of-n"))
    observation, going = seen(bundle, 50.0), underway(bundle, 50.0)
    times = observation.stamp + (np.arange(32) + 1) / 30
    ahead = np.stack([np.interp(times, going.chunk.times, c) for c in going.chunk.actions.T], 1)
    early, late = ahead.copy(), ahead.copy()
    early[:6] += 0.5  # before it takes over: does not count
    late[8:12] += 0.02
    assert continuation.choose(np.stack([late, early, ahead + 0.1]), observation, going) == 1


def test_forcing_needs_tokens_that_name_a_stretch_of_time(bundle):
    whole = SimpleNamespace(robot=SPEC, tokenizer=make_tokenizer("oat"))
    with pytest.raises(ConfigError, match="oat tokenizer names one stretch"):
        ChunkTransition(whole, TransitionConfig(transition="constrained"))
    with pytest.raises(ConfigError, match="unknown transition 'hope'"):
        EvaluationConfig(bundle="b", transition="hope")


def test_tokens_know_the_steps_they_are_about():
    flat = make_tokenizer("nac", "small-flat").grammar.token_time_spans
    assert flat[:4].tolist() == [[0, 8], [8, 16], [16, 24], [24, 32]]
    assert flat[4:].tolist() == [[4 * k, 4 * k + 4] for k in range(8)]
    assert make_tokenizer("nac").grammar.token_time_spans is None
    assert make_tokenizer("bin").grammar.token_time_spans[[0, 6, 7, 223]].tolist() == [
        [0, 1], [0, 1], [1, 2], [31, 32],
    ]  # fmt: skip
    channels = make_tokenizer("nac", "small-flat", layout="channels", ratios=(2, 2))
    assert channels.grammar.token_time_spans[0].tolist() == [0, 8]


def test_certainty_is_that_of_the_legal_tokens_alone():
    logits = torch.tensor([[0.0, 0.0, 9.0], [50.0, 0.0, 0.0]])
    legal = torch.tensor([[True, True, False], [True, True, True]])
    entropy, margin = entropy_and_margin(logits, legal)
    assert entropy.tolist() == pytest.approx([np.log(2), 0.0], abs=1e-6)
    assert margin.tolist() == pytest.approx([0.0, 1.0])


def test_a_forced_token_that_is_not_legal_is_refused(bundle):
    legal = torch.ones(2, 4, dtype=torch.bool)
    legal[0, 2] = False
    narrowed = restrict_to_forced(torch.tensor([2, -1]), legal)
    assert not narrowed[0].any() and narrowed[1].all()
    inputs = bundle.policy.inputs(seen(bundle, 0.0))
    forced = torch.full((1, 12), -1)
    forced[0, 3] = 2000  # of scale 1, in a place of scale 0
    with pytest.raises(BadTokens, match="no token is legal"):
        bundle.policy.sample_tokens(inputs, forced=forced)


def test_an_engine_says_how_sure_the_policy_was(bundle):
    engine = Engine(bundle)
    engine.predict_chunk(seen(bundle, 0.0))
    assert engine.confidence.entropy > 0 and 0 <= engine.confidence.margin <= 1


def test_latency_and_seam_reach_the_trial_and_its_figures():
    config = EvaluationConfig(
        bundle=str(SHIPPED), tasks=("weighing",), trials=1, seam="constrained", latency_ms=200.0
    )
    figures = run(config)
    assert figures["transition"] == "constrained" and figures["latency_ms"] == 200.0
    assert figures["transition_jump"]["p99"] >= figures["transition_jump"]["p50"] >= 0
    assert figures["jerk_rms_ratio"] > 0 and figures["tasks"]["weighing"]["successes"] == 1
