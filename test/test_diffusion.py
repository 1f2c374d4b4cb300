"""Diffusion Policy: its schedule against diffusers, training, samples, inpainting, devices."""

import pytest
import torch
from diffusers import DDIMScheduler, DDPMScheduler
from tiny_policies import (
    chunk_under_way,
    make_tiny,
    mean_loss,
    random_inputs,
    seeded,
    train,
)

from nac_ros.core.chunk_spec import ChunkSpec
from nac_ros.core.errors import BundleError, ConfigError
from nac_ros.core.normalize import NormalizerConfig
from nac_ros.policies.base import load_policy, make_policy
from nac_ros.policies.diffusion_schedule import DiffusionSchedule

SPEC = ChunkSpec(horizon=8, action_dim=3)
ALL_INPUTS = {"cameras": ("scene",), "environment_state_dim": 2, "n_past_commands": 2}
PAPER = {"num_train_timesteps": 100, "beta_schedule": "squaredcos_cap_v2", "clip_sample": True}
MODE = 0.8  # the demonstrated chunks stay at MODE or at -MODE


@pytest.fixture(scope="module")
def two_modes():
    """A policy trained on two opposite chunks for the same observation, and the observation."""
    policy = make_tiny("diffusion", SPEC)
    one = random_inputs(policy, 1)
    many = one._replace(proprio=one.proprio.expand(32, -1, -1), task=one.task.expand(32))
    signs = torch.tensor([1.0, -1.0]).repeat(16)[:, None, None]
    train(policy, many, {"chunk": MODE * signs.expand(32, 8, 3)}, 600, 5e-3)
    return policy, one


def fake_noise(sample, step):
    """Stands for a network; its clean estimate leaves [-1, 1], so that clipping takes part."""
    return torch.sin(3 * sample + step / 10) + 0.1 * sample


def test_the_schedule_equals_that_of_diffusers():
    ours = DiffusionSchedule(100, 10)
    for theirs in (DDIMScheduler(**PAPER), DDPMScheduler(**PAPER)):
        assert torch.allclose(ours.signal_power, theirs.alphas_cumprod, rtol=1e-6, atol=0)
    clean, noise = torch.randn(100, 8, 3), torch.randn(100, 8, 3)
    wanted = DDPMScheduler(**PAPER).add_noise(clean, noise, torch.arange(100))
    assert torch.allclose(ours.add_noise(clean, noise, torch.arange(100)), wanted, atol=1e-5)


@pytest.mark.parametrize("n_steps", [10, 7, 100, 1])
def test_the_ddim_chain_equals_that_of_diffusers(n_steps):
    ours, theirs = DiffusionSchedule(100, n_steps), DDIMScheduler(**PAPER)
    theirs.set_timesteps(n_steps)
    assert ours.timesteps == theirs.timesteps.tolist()
    sample = wanted = torch.randn(4, 8, 3, generator=seeded(0))
    clipped = 0
    for step in ours.timesteps:
        step_result = theirs.step(fake_noise(wanted, step), step, wanted, eta=0.0)
        clipped += int((step_result.pred_original_sample.abs() == 1).sum())
        sample = ours.ddim_step(sample, fake_noise(sample, step), step)
        wanted = step_result.prev_sample
        assert torch.allclose(sample, wanted, rtol=0, atol=1e-5)
    assert clipped and sample.abs().max() <= 1


def test_more_inference_steps_than_noise_levels_are_rejected():
    with pytest.raises(ConfigError, match=r"1 \.\. 100"):
        DiffusionSchedule(100, 101)


def test_a_perfect_denoiser_leads_to_its_chunk_also_beyond_the_quantiles(monkeypatch):
    spec = ChunkSpec(horizon=8, action_dim=3, normalizer=NormalizerConfig(range="quantiles"))
    policy = make_tiny("diffusion", spec).eval()
    actions = torch.randn(500, 8, 3, generator=seeded(0))
    policy.fit_actions(actions.numpy(), actions[:, 0].numpy())
    chunks = policy.normalizer.normalize(actions)
    assert (
        torch.allclose(policy.clip_range, chunks.abs().amax((0, 1))) and chunks.abs().max() > 1.2
    )
    wanted = chunks[chunks.abs().amax((1, 2)).topk(2).indices]

    def exact(noisy, level, vectors):
        power = policy.schedule.signal_power[level.long()][:, None, None]
        return (noisy - power.sqrt() * wanted) / (1 - power).sqrt()

    monkeypatch.setattr(policy.denoiser, "forward", exact)
    found = policy.predict(random_inputs(policy, 2), generator=seeded(1)).chunk
    assert torch.allclose(found, wanted, atol=1e-4)


def test_a_damaged_clip_range_is_rejected(tmp_path):
    policy = make_tiny("diffusion", SPEC)
    policy.clip_range[1] = -1
    policy.save_pretrained(tmp_path)
    with pytest.raises(BundleError, match="clip_range"):
        load_policy(tmp_path, None)


def test_it_learns_the_chunks_of_one_batch():
    policy = make_tiny("diffusion", SPEC)
    inputs, targets = random_inputs(policy, 4), {"chunk": torch.rand(4, 8, 3) * 1.6 - 0.8}
    before = mean_loss(policy, inputs, targets)
    rows = inputs._replace(proprio=inputs.proprio.repeat(8, 1, 1), task=inputs.task.repeat(8))
    wanted = {"chunk": targets["chunk"].repeat(8, 1, 1)}
    assert train(policy, rows, wanted, 600, 5e-3) < 0.25 * before
    chunk = policy.predict(inputs, generator=seeded(0)).chunk
    assert (chunk - targets["chunk"]).abs().mean() < 0.12


def test_it_samples_both_motions_of_one_observation(two_modes):
    policy, one = two_modes
    chunk = policy.predict(one, n_samples=64, generator=seeded(0)).chunk
    ends = chunk[:, -1].mean(-1)
    assert 0.2 < (ends > 0).float().mean() < 0.8
    assert ((ends.abs() - MODE).abs() < 0.2).float().mean() > 0.65


def test_a_seed_repeats_a_sample_and_another_differs(two_modes):
    policy, one = two_modes
    first, again, other = (policy.predict(one, 4, None, seeded(k)).chunk for k in (1, 1, 2))
    assert torch.equal(first, again) and not torch.equal(first, other)
    assert first.dtype == torch.float32 and first.shape == (4, 8, 3)


def test_samples_of_an_observation_are_adjacent_and_images_are_encoded_once(monkeypatch):
    policy = make_tiny("diffusion", SPEC, **ALL_INPUTS).eval()
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
    context = chunk_under_way(actions, 3, 8)
    free = policy.predict(one, 64, None, seeded(3)).chunk
    chunk = policy.predict(one, 64, context, seeded(3)).chunk
    assert torch.equal(chunk[:, :3], actions[:, :3].expand(64, 3, 3))
    jump = (chunk[:, 3] - MODE).abs().mean()
    assert jump < 0.25 * (free[:, 3] - MODE).abs().mean()
    assert (chunk[:, -1] > 0).float().mean() > 0.8


def test_committed_steps_after_the_end_of_the_chunk_under_way_are_free(two_modes):
    policy, one = two_modes
    context = chunk_under_way(torch.full((1, 8, 3), 0.123), 5, 2)
    chunk = policy.predict(one, 1, context, seeded(0)).chunk
    assert torch.equal(chunk[:, :2], context.actions[:, :2])
    assert not (chunk[:, 2:] == 0.123).any()


def test_saved_and_loaded_policies_agree(tmp_path):
    policy = make_tiny("diffusion", SPEC, **ALL_INPUTS).eval()
    policy.save_pretrained(tmp_path)
    inputs = random_inputs(policy, 2)
    chunks = [
        p.predict(inputs, 1, None, seeded(0)).chunk for p in (policy, load_policy(tmp_path, None))
    ]
    assert torch.equal(*chunks)


def test_loss_and_prediction_stay_on_the_device_of_the_inputs():
    with torch.device("meta"):
        policy = make_policy(
            "diffusion", "small", SPEC, cameras=["scene"], tasks={"t": "T."}, state_dim=3
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


def test_a_loss_under_autocast_is_float32():
    policy = make_tiny("diffusion", SPEC)
    with torch.autocast("cpu", torch.bfloat16):
        loss = policy.loss(random_inputs(policy, 2), {"chunk": torch.zeros(2, 8, 3)})["noise"]
        chunk = policy.predict(random_inputs(policy, 2)).chunk
    assert loss.dtype == chunk.dtype == torch.float32


def test_preset_paper_has_the_values_of_table_5_and_small_fewer_parameters():
    facts = {"cameras": (), "tasks": {"t": "T."}, "state_dim": 7}
    paper, small = (make_policy("diffusion", p, ChunkSpec(), **facts) for p in ("paper", "small"))
    sizes = paper.config
    assert (sizes.dim, sizes.n_layers, sizes.n_heads, sizes.dropout) == (256, 4, 4, 0.1)
    assert (sizes.n_train_steps, sizes.n_inference_steps, sizes.n_action_steps) == (100, 10, 16)
    assert 1 < small.params_m < 3 < paper.params_m
