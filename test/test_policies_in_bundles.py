"""Bundles of policies without tokens: export, golden vectors, engine, committed steps."""

from shutil import copytree

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from test_chunk_transition import current_chunk, deviation, engine_of, noise_observation

from nac_ros.core.chunk_spec import ChunkSpec
from nac_ros.core.errors import BundleError
from nac_ros.export.bundle import load_bundle, write_bundle
from nac_ros.export.manifest import write_manifest
from nac_ros.inference.chunk_transition import TransitionConfig
from nac_ros.policies.base import make_policy
from nac_ros.robot.spec import load_robot

SPEC = load_robot("vx300s")
CHUNKS = ChunkSpec(
    action_dim=SPEC.action_dim,
    names=SPEC.joint_names,
    units=SPEC.units,
    rate_hz=SPEC.action_rate_hz,
    relative=tuple(SPEC.relative_mask.tolist()),
)


@pytest.fixture(scope="module", params=["regression", "diffusion", "flow"])
def folder(request, tmp_path_factory):
    """A bundle with random weights."""
    torch.manual_seed(0)
    torch.set_num_threads(1)
    cameras = [camera.name for camera in SPEC.cameras]
    facts = {"cameras": cameras, "tasks": {"weighing": "Turn on the weighing machine."}}
    sizes = {"image_size": 48, "vision_width": 32, "dim": 32, "n_heads": 2}
    policy = make_policy(request.param, "small", CHUNKS, state_dim=7, **facts, **sizes)
    steps = np.random.default_rng(0).standard_normal((300, 32, SPEC.action_dim))
    actions = (SPEC.home + 0.002 * steps.cumsum(1)).astype(np.float32)
    policy.fit_state(actions[:, 0])
    policy.fit_actions(actions, actions[:, 0])
    policy.fit_targets(
        policy.prepare_targets(torch.from_numpy(actions), torch.from_numpy(actions[:, 0]))
    )
    return write_bundle(tmp_path_factory.mktemp("bundle"), policy.eval(), SPEC, {}, "a card")


def test_a_bundle_without_tokenizer_loads_and_its_engine_repeats_a_chunk_with_its_seed(folder):
    bundle = load_bundle(folder)
    assert bundle.tokenizer is None and bundle.detokenizer is None
    assert not (folder / "tokenizer").exists() and not (folder / "detokenizer.onnx").exists()
    observation = noise_observation(bundle, 50.0)
    chunk, again = (engine_of(bundle, seed=3).predict_chunk(observation) for _ in range(2))
    np.testing.assert_array_equal(chunk.actions, again.actions)
    assert chunk.actions.shape == (32, 7) and len(chunk.tokens) == 0
    assert engine_of(bundle).confidence.entropy is None


def test_changed_weights_fail_the_golden_vectors(folder, tmp_path):
    copy = tmp_path / "copy"
    copytree(folder, copy)
    path = copy / "policy" / "model.safetensors"
    weights = load_file(path)
    torch.manual_seed(1)  # some layers begin at zero, so every matrix is changed
    changed = {k: v + 0.05 * torch.randn_like(v) if v.ndim > 1 else v for k, v in weights.items()}
    save_file(changed, path)
    bundle = load_bundle(folder)
    facts = {"robot": SPEC.name, "tasks": dict(bundle.policy.config.tasks)}
    write_manifest(copy, **facts, rate_hz=bundle.rate_hz, horizon=32)
    with pytest.raises(BundleError, match="the prediction of the golden inputs differs"):
        load_bundle(copy)


def test_committed_steps_of_the_current_chunk_are_continued_where_the_policy_can(folder):
    bundle = load_bundle(folder)
    if not bundle.policy.supports_context:
        pytest.skip("a regression cannot continue committed steps")
    observation, current = noise_observation(bundle, 50.0), current_chunk(bundle, 50.0)
    free = engine_of(bundle).predict_chunk(observation, current)
    constrained = engine_of(bundle, transition=TransitionConfig(transition="constrained"))
    chunk = constrained.predict_chunk(observation, current)
    assert deviation(bundle, chunk, current.chunk) < 1e-4 < deviation(bundle, free, current.chunk)


def test_best_of_n_takes_several_chunks_of_any_policy(folder):
    bundle = load_bundle(folder)
    transition = TransitionConfig(transition="best-of-n", candidates=4)
    observation, current = noise_observation(bundle, 50.0), current_chunk(bundle, 50.0)
    chunk = engine_of(bundle, transition=transition).predict_chunk(observation, current)
    assert np.isfinite(chunk.actions).all()
