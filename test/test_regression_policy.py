"""Chunk regression: training, determinism, inputs without cameras, devices."""

import numpy as np
import pytest
import torch
from tiny_policies import (
    chunk_under_way,
    make_tiny,
    mean_loss,
    random_inputs,
    seeded,
    train,
)

from nac_ros.core.chunk_spec import ChunkSpec
from nac_ros.core.errors import ConfigError
from nac_ros.policies.base import load_policy, make_policy

SPEC = ChunkSpec(horizon=8, action_dim=3)
ALL_INPUTS = {"cameras": ("scene",), "environment_state_dim": 2, "n_past_commands": 2}


def test_it_learns_the_chunks_of_one_batch():
    policy = make_tiny("regression", SPEC)
    inputs, targets = random_inputs(policy, 8), {"chunk": torch.rand(8, 8, 3) * 2 - 1}
    before = mean_loss(policy, inputs, targets, 1)
    assert train(policy, inputs, targets, 300, 3e-3) < 0.1 * before
    assert (policy.predict(inputs).chunk - targets["chunk"]).abs().mean() < 0.05


def test_of_two_motions_it_predicts_the_median():
    policy = make_tiny("regression", SPEC)
    inputs = random_inputs(policy, 1)
    thrice = inputs._replace(proprio=inputs.proprio.repeat(3, 1, 1), task=inputs.task.repeat(3))
    chunk = torch.tensor([-0.8, 0.5, 0.6])[:, None, None].expand(3, 8, 3)
    train(policy, thrice, {"chunk": chunk}, 300, 3e-3)
    assert (policy.predict(inputs).chunk - 0.5).abs().max() < 0.1


def test_samples_are_equal_and_a_context_is_rejected():
    policy = make_tiny("regression", SPEC).eval()
    inputs = random_inputs(policy, 2)
    chunk = policy.predict(inputs, generator=seeded(1)).chunk
    more = policy.predict(inputs, n_samples=3, generator=seeded(2)).chunk
    assert torch.allclose(more.view(2, 3, 8, 3), chunk[:, None].expand(2, 3, 8, 3), atol=1e-6)
    assert not policy.supports_context
    with pytest.raises(ConfigError, match="blend"):
        policy.predict(inputs, context=chunk_under_way(chunk, 2, 4))


def test_every_input_changes_the_prediction():
    policy = make_tiny("regression", SPEC, **ALL_INPUTS).eval()
    inputs = random_inputs(policy, 2)
    chunk = policy.predict(inputs).chunk
    changed = [
        inputs._replace(images={"scene": 255 - inputs.images["scene"]}),
        inputs._replace(proprio=inputs.proprio + 1),
        inputs._replace(task=1 - inputs.task),
        inputs._replace(environment_state=inputs.environment_state + 1),
        inputs._replace(past_commands=inputs.past_commands + 1),
    ]
    for other in changed:
        assert (policy.predict(other).chunk - chunk).abs().max() > 1e-5


def test_saved_and_loaded_policies_agree(tmp_path):
    policy = make_tiny("regression", SPEC, **ALL_INPUTS).eval()
    policy.save_pretrained(tmp_path)
    inputs = random_inputs(policy, 2)
    again = load_policy(tmp_path, None)
    assert again.chunk_spec == SPEC
    assert torch.equal(again.predict(inputs).chunk, policy.predict(inputs).chunk)


def test_loss_and_prediction_stay_on_the_device_of_the_inputs():
    with torch.device("meta"):
        policy = make_policy(
            "regression", "small", SPEC, cameras=["scene"], tasks={"t": "T."}, state_dim=3
        )
    inputs = random_inputs(policy, 2)
    meta = inputs._replace(
        images={name: image.to("meta") for name, image in inputs.images.items()},
        proprio=inputs.proprio.to("meta"),
        task=inputs.task.to("meta"),
    )
    losses = policy.loss(meta, {"chunk": torch.zeros(2, 8, 3, device="meta")})
    sum(losses.values()).backward()
    assert policy.predict(meta).chunk.device.type == "meta"


def test_a_loss_under_autocast_is_float32():
    policy = make_tiny("regression", SPEC)
    with torch.autocast("cpu", torch.bfloat16):
        loss = policy.loss(random_inputs(policy, 2), {"chunk": torch.zeros(2, 8, 3)})["l1"]
        chunk = policy.predict(random_inputs(policy, 2)).chunk
    assert loss.dtype == chunk.dtype == torch.float32


def test_preset_paper_has_the_sizes_of_table_5_and_small_fewer_parameters():
    facts = {"cameras": (), "tasks": {"t": "T."}, "state_dim": 7}
    paper, small = (make_policy("regression", p, ChunkSpec(), **facts) for p in ("paper", "small"))
    assert (paper.config.dim, paper.config.n_heads, paper.config.dropout) == (256, 4, 0.1)
    assert 1 < small.params_m < 3 < paper.params_m
    with pytest.raises(ConfigError, match="n_heads 3"):
        make_policy("regression", "small", ChunkSpec(), n_heads=3, dim=32, **facts)


def test_new_statistics_of_the_actions_do_not_change_what_a_trained_policy_does():
    policy, rng = make_tiny("regression", SPEC).eval(), np.random.default_rng(0)
    inputs, states = random_inputs(policy, 2), np.zeros((50, 3), np.float32)
    before = policy.normalizer.denormalize(policy.predict(inputs).chunk)
    policy.fit_actions(rng.normal(1.0, 2.0, (50, 8, 3)).astype(np.float32), states)
    after = policy.normalizer.denormalize(policy.predict(inputs).chunk)
    assert torch.allclose(before, after, atol=1e-5)
