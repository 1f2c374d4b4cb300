"""Flow matching: training, samples, real-time chunking, devices."""

import math

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
from nac_ros.policies.base import load_policy, make_policy
from nac_ros.policies.flow import guidance_mask

SPEC = ChunkSpec(horizon=8, action_dim=3)
ALL_INPUTS = {"cameras": ("scene",), "environment_state_dim": 2, "n_past_commands": 2}
MODE = 0.8  # the demonstrated chunks stay at MODE or at -MODE


@pytest.fixture(scope="module")
def two_modes():
    """A policy trained on two opposite chunks for the same observation, and the observation."""
    policy = make_tiny("flow", SPEC)
    one = random_inputs(policy, 1)
    many = one._replace(proprio=one.proprio.expand(32, -1, -1), task=one.task.expand(32))
    signs = torch.tensor([1.0, -1.0]).repeat(16)[:, None, None]
    train(policy, many, {"chunk": MODE * signs.expand(32, 8, 3)}, 400, 5e-3)
    return policy, one


def test_it_learns_the_chunks_of_one_batch():
    policy = make_tiny("flow", SPEC)
    inputs, targets = random_inputs(policy, 4), {"chunk": torch.rand(4, 8, 3) * 1.6 - 0.8}
    before = mean_loss(policy, inputs, targets)
    rows = inputs._replace(proprio=inputs.proprio.repeat(8, 1, 1), task=inputs.task.repeat(8))
    wanted = {"chunk": targets["chunk"].repeat(8, 1, 1)}
    assert train(policy, rows, wanted, 400, 5e-3) < 0.25 * before
    chunk = policy.predict(inputs, generator=seeded(0)).chunk
    assert (chunk - targets["chunk"]).abs().mean() < 0.12


def test_it_recovers_both_modes_of_a_mixture_in_one_dimension():
    policy = make_tiny("flow", ChunkSpec(horizon=1, action_dim=1))
    one = random_inputs(policy, 1)
    many = one._replace(proprio=one.proprio.expand(256, -1, -1), task=one.task.expand(256))
    values = torch.cat([torch.full((77,), -0.6), torch.full((179,), 0.7)])  # 30 and 70 %
    train(policy, many, {"chunk": values[:, None, None]}, 400, 5e-3)
    found = policy.predict(one, 1000, None, seeded(0)).chunk.flatten()
    low, high = (found + 0.6).abs() < 0.2, (found - 0.7).abs() < 0.2
    assert 0.2 < low.float().mean() < 0.4
    assert 0.55 < high.float().mean() < 0.8


def test_a_seed_repeats_a_sample_and_another_differs(two_modes):
    policy, one = two_modes
    first, again, other = (policy.predict(one, 4, None, seeded(k)).chunk for k in (1, 1, 2))
    assert torch.equal(first, again) and not torch.equal(first, other)
    assert first.dtype == torch.float32 and first.shape == (4, 8, 3)


def test_samples_of_an_observation_are_adjacent_and_images_are_encoded_once(monkeypatch):
    policy = make_tiny("flow", SPEC, **ALL_INPUTS).eval()
    inputs, calls = random_inputs(policy, 2), []
    encode = policy.encode_images
    monkeypatch.setattr(policy, "encode_images", lambda x: calls.append(len(x.task)) or encode(x))
    actions = torch.tensor([0.3, -0.3])[:, None, None].expand(2, 8, 3)
    context = chunk_under_way(actions, 2, 6)
    chunk = policy.predict(inputs, 3, context, seeded(0)).chunk.view(2, 3, 8, 3)
    assert calls == [2]
    assert torch.equal(chunk[:, :, :2], actions[:, None, :2].expand(2, 3, 2, 3))


def test_committed_steps_are_kept_and_the_rest_continues_them(two_modes):
    policy, one = two_modes
    actions = torch.full((1, 8, 3), MODE)
    free = policy.predict(one, 64, None, seeded(3)).chunk
    chunk = policy.predict(one, 64, chunk_under_way(actions, 3, 6), seeded(3)).chunk
    assert torch.equal(chunk[:, :3], actions[:, :3].expand(64, 3, 3))
    assert (chunk[:, 3] - MODE).abs().mean() < 0.25 * (free[:, 3] - MODE).abs().mean()
    assert (chunk[:, -1] > 0).float().mean() > 0.9


def test_guidance_draws_known_steps_that_are_not_committed(two_modes):
    policy, one = two_modes
    context = chunk_under_way(torch.full((1, 8, 3), MODE), 0, 6)
    chunk = policy.predict(one, 64, context, seeded(3)).chunk
    assert (chunk[:, :4] > 0).float().mean() > 0.9
    unguided = make_tiny("flow", SPEC, max_guidance_weight=0.0)
    unguided.load_state_dict(policy.state_dict())
    unguided.eval()
    free = policy.predict(one, 64, None, seeded(3)).chunk
    assert torch.allclose(unguided.predict(one, 64, context, seeded(3)).chunk, free, atol=1e-5)


def test_a_context_without_known_steps_changes_nothing(two_modes):
    policy, one = two_modes
    context = chunk_under_way(torch.full((1, 8, 3), MODE), 3, 0)
    free = policy.predict(one, 8, None, seeded(3)).chunk
    assert torch.allclose(policy.predict(one, 8, context, seeded(3)).chunk, free, atol=1e-5)


def test_the_soft_mask_is_that_of_the_paper():
    context = chunk_under_way(torch.zeros(2, 10, 1), 2, 6)
    shares = torch.tensor([1, 1, 4 / 5, 3 / 5, 2 / 5, 1 / 5, 0, 0, 0, 0])
    wanted = shares * (shares.exp() - 1) / (math.e - 1)
    assert torch.allclose(guidance_mask(context), wanted.expand(2, 10), atol=1e-6)


def test_a_prediction_leaves_no_gradients(two_modes):
    policy, one = two_modes
    policy.zero_grad(set_to_none=True)
    context = chunk_under_way(torch.full((1, 8, 3), MODE), 3, 6)
    chunk = policy.predict(one, 2, context, seeded(0)).chunk
    assert not chunk.requires_grad
    assert all(p.grad is None for p in policy.parameters())


def test_saved_and_loaded_policies_agree(tmp_path):
    policy = make_tiny("flow", SPEC, **ALL_INPUTS).eval()
    policy.save_pretrained(tmp_path)
    inputs = random_inputs(policy, 2)
    again = load_policy(tmp_path, None)
    chunks = [p.predict(inputs, 1, None, seeded(0)).chunk for p in (policy, again)]
    assert torch.equal(*chunks)


def test_loss_and_prediction_stay_on_the_device_of_the_inputs():
    with torch.device("meta"):
        policy = make_policy(
            "flow", "small", SPEC, cameras=["scene"], tasks={"t": "T."}, state_dim=3
        )
    inputs = random_inputs(policy, 2)
    meta = inputs._replace(
        images={name: image.to("meta") for name, image in inputs.images.items()},
        proprio=inputs.proprio.to("meta"),
        task=inputs.task.to("meta"),
    )
    actions = torch.zeros(2, 8, 3, device="meta")
    sum(policy.loss(meta, {"chunk": actions}).values()).backward()
    chunk = policy.predict(meta, 2, chunk_under_way(actions, 2, 4), seeded(0)).chunk
    assert chunk.device.type == "meta"


def test_losses_and_guidance_under_autocast_are_float32():
    policy = make_tiny("flow", SPEC)
    context = chunk_under_way(torch.zeros(2, 8, 3), 2, 4)
    with torch.autocast("cpu", torch.bfloat16):
        loss = policy.loss(random_inputs(policy, 2), {"chunk": torch.zeros(2, 8, 3)})["velocity"]
        chunk = policy.predict(random_inputs(policy, 2), 1, context).chunk
    assert loss.dtype == chunk.dtype == torch.float32


def test_preset_paper_has_the_sizes_of_table_5_and_small_fewer_parameters():
    facts = {"cameras": (), "tasks": {"t": "T."}, "state_dim": 7}
    paper, small = (make_policy("flow", p, ChunkSpec(), **facts) for p in ("paper", "small"))
    sizes = paper.config
    assert (sizes.dim, sizes.n_layers, sizes.n_heads, sizes.dropout) == (256, 4, 4, 0.1)
    assert sizes.n_inference_steps == 10
    assert 1 < small.params_m < 3 < paper.params_m
