"""Training of a token policy: targets, frozen vision encoder, resuming, unusable frames."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch

from nac_ros.core.errors import BadActions, ConfigError
from nac_ros.datasets.frames import Frames, ImageStack
from nac_ros.policies.base import load_policy, make_policy
from nac_ros.tokenizers import make_tokenizer
from nac_ros.training.policy_trainer import Demonstrations, PolicyTrainer, PolicyTrainingConfig

SIZE, LENGTH, EPISODES = 32, 20, 40
QUICK = {"steps": 6, "batch": 8, "warmup": 2, "log_every": 3, "bfloat16": False}


@pytest.fixture(scope="module")
def frames() -> Frames:
    """Two joints move towards a white square at a random position of the image."""
    rng = np.random.default_rng(0)
    goal = rng.uniform(-1, 1, (EPISODES, 2))
    progress = np.linspace(0, 1, LENGTH, dtype=np.float32)[:, None]
    images = np.zeros((EPISODES, LENGTH, SIZE, SIZE, 3), np.uint8)
    for episode, (x, y) in enumerate(goal):
        row, column = (int(SIZE / 2 + 12 * value) for value in (y, x))
        images[episode, :, row - 2 : row + 2, column - 2 : column + 2] = 255
    actions = (progress * goal[:, None]).astype(np.float32)  # [E, T, 2]
    episode = np.repeat(np.arange(EPISODES), LENGTH)
    flat = actions.reshape(-1, 2)
    return Frames(
        images={"scene": ImageStack([images.reshape(-1, SIZE, SIZE, 3)])},
        proprio=flat,
        actions=flat,
        episode=episode,
        start=episode * LENGTH,
        end=(episode + 1) * LENGTH,
        tasks=("reach",) * EPISODES,
        held_out=np.arange(EPISODES) % 5 == 4,
        names=("x", "y"),
        fps=30,
        intervention=np.zeros(len(episode), bool),
    )


@pytest.fixture(scope="module")
def tokenizer(frames):
    rows = np.arange(len(frames))
    small = {"decoder_dim": 32, "decoder_hidden": 64, "decoder_blocks": 1, "n_filters": 4}
    made = make_tokenizer("nac", action_dim=2, relative=[True, True], latent_dim=8, **small)
    return made.fit(frames.actions[frames.future_indices(rows, 32)], frames.proprio).eval()


def trainer(frames, tokenizer, out, model=None, **training) -> PolicyTrainer:
    torch.manual_seed(0)
    torch.set_num_threads(1)
    facts = {"cameras": ["scene"], "tasks": {"reach": "reach"}, "state_dim": 2}
    facts |= {"image_size": SIZE, "dim": 32, "n_layers": 1, "n_heads": 2}
    policy = make_policy("ar", "small", tokenizer, vision_width=32, **{**facts, **(model or {})})
    demonstrations = Demonstrations.build(frames, tokenizer, policy)
    return PolicyTrainer(
        policy, demonstrations, PolicyTrainingConfig(**{**QUICK, **training}), out
    )


def test_future_actions_are_those_further_ahead(frames, tokenizer, tmp_path):
    made = trainer(frames, tokenizer, tmp_path)
    targets = made.data.targets(np.array([3]), future_stride=4)
    future = tokenizer.denormalize(targets.future_actions, frames.proprio[[3]])[0].numpy()
    expected = frames.actions[np.minimum(3 + 4 * np.arange(32), LENGTH - 1)]
    np.testing.assert_allclose(future, expected, atol=1e-5)


def test_without_token_loss_only_vision_and_regression_head_are_trained(
    frames, tokenizer, tmp_path
):
    fast = {"learning_rate": 3e-3, "vision_learning_rate": 3e-3, "batch": 32, "ema_decay": 0.9}
    made = trainer(frames, tokenizer, tmp_path, {"token_weight": 0.0}, steps=100, **fast)
    before = {key: value.clone() for key, value in made.policy.state_dict().items()}
    first = made.evaluate()["l1_regression"]
    after = made.run()["l1_regression"]
    assert after < 0.8 * first
    now = made.policy.state_dict()
    changed = {key for key, value in before.items() if (now[key] != value).any()}
    assert any(key.startswith("vision.") for key in changed)
    assert not any(
        key.startswith(("transformer.", "codeword_head.residual_projection")) for key in changed
    )


def test_a_frozen_vision_encoder_does_not_change_and_the_rest_does(frames, tokenizer, tmp_path):
    made = trainer(frames, tokenizer, tmp_path, cached_views=2)
    before = {key: value.clone() for key, value in made.policy.state_dict().items()}
    made.run()
    after = load_policy(tmp_path / "policy", tokenizer).state_dict()
    for key, value in before.items():
        if key.startswith("vision."):
            assert torch.equal(after[key], value), key
    assert not torch.equal(after["plan_projection.weight"], before["plan_projection.weight"])


def test_cached_features_belong_to_their_frames(frames, tokenizer, tmp_path):
    plain = {"shift": 0, "brightness": 0.0, "contrast": 0.0, "state_noise": 0.0}
    made = trainer(frames, tokenizer, tmp_path, cached_views=1, **plain)
    made.run()
    rows = made._train[[0, 7, 50]]
    cached = made._augmented_inputs(rows).image_features.float()
    made.policy.eval()
    with torch.no_grad():
        fresh = made.policy.encode_images(made.data.inputs(rows, made.policy.config.n_obs_steps))
    torch.testing.assert_close(cached, fresh, atol=2e-3, rtol=2e-3)  # stored in float16


def test_an_interrupted_run_resumes_to_the_same_weights(frames, tokenizer, tmp_path):
    whole = trainer(frames, tokenizer, tmp_path / "whole")
    whole.run()
    broken = trainer(frames, tokenizer, tmp_path / "broken")
    step, calls = broken._train_step, iter(range(100))

    def stop_after_four():
        if next(calls) == 4:
            raise KeyboardInterrupt
        return step()

    broken._train_step = stop_after_four
    with pytest.raises(KeyboardInterrupt):
        broken.run()
    again = trainer(frames, tokenizer, tmp_path / "broken")
    again.run(resume=True)
    steps = [json.loads(line)["step"] for line in (tmp_path / "broken/log.jsonl").open()]
    assert steps == [3, 6]
    for key, value in whole.policy.state_dict().items():
        assert torch.equal(again.policy.state_dict()[key], value), key


@pytest.fixture(scope="module")
def started(frames, tokenizer, tmp_path_factory):
    """Folder of a run of one step."""
    out = tmp_path_factory.mktemp("started")
    trainer(frames, tokenizer, out, steps=1, log_every=1).run()
    return out


def _other_images(frames: Frames) -> Frames:
    images = 255 - frames.images["scene"][np.arange(len(frames))]
    return replace(frames, images={"scene": ImageStack([images])})


@pytest.mark.parametrize(
    "change",
    [
        lambda frames: replace(frames, actions=frames.actions * np.float32(1.0001)),
        lambda frames: replace(frames, held_out=np.arange(EPISODES) % 5 == 3),
        _other_images,
    ],
)
def test_a_policy_cannot_be_resumed_on_other_data(frames, tokenizer, started, change):
    with pytest.raises(ConfigError, match=r"started with other data \(.*choose another --out"):
        trainer(change(frames), tokenizer, started, steps=2).run(resume=True)


def test_a_policy_cannot_be_resumed_with_other_settings_or_another_tokenizer(
    frames, tokenizer, started
):
    with pytest.raises(ConfigError, match=r"another setting batch \(8, now 4\)"):
        trainer(frames, tokenizer, started, steps=2, batch=4).run(resume=True)
    with pytest.raises(ConfigError, match="another model"):
        trainer(frames, tokenizer, started, {"dim": 16}, steps=2).run(resume=True)
    ahead = frames.future_indices(np.arange(len(frames)), 32)
    other = make_tokenizer("bin", action_dim=2).fit(frames.actions[ahead])
    with pytest.raises(ConfigError, match="another"):
        trainer(frames, other, started, steps=2).run(resume=True)


def test_a_damaged_policy_checkpoint_is_reported_in_one_sentence(
    frames, tokenizer, started, tmp_path
):
    for content in (b"", b"nothing", (started / "checkpoint.pt").read_bytes()[:5000]):
        (tmp_path / "checkpoint.pt").write_bytes(content)
        with pytest.raises(ConfigError, match=r"is damaged.*choose another --out"):
            trainer(frames, tokenizer, tmp_path, steps=2).run(resume=True)


def test_frames_with_nan_are_left_out_and_counted(frames, tokenizer, capsys):
    actions = frames.actions.copy()
    actions[3] = np.nan
    policy = trainer(frames, tokenizer, None).policy
    made = Demonstrations.build(replace(frames, actions=actions), tokenizer, policy)
    assert "1 episodes hold NaN or inf and are left out: 0" in capsys.readouterr().err
    assert not made.usable[:LENGTH].any() and made.usable[LENGTH:].all()
    whole = Demonstrations.build(frames, tokenizer, policy)
    assert torch.equal(made.tokens[LENGTH:], whole.tokens[LENGTH:])
    with pytest.raises(BadActions, match="every episode holds NaN"):
        Demonstrations.build(replace(frames, actions=actions * np.nan), tokenizer, policy)


@pytest.mark.parametrize(("name", "share"), [("bin", 0.7), ("fast", 0.3)])
def test_a_frame_whose_chunk_has_no_tokens_is_left_out_alone(
    frames, name, share, tmp_path, capsys
):
    rows = np.arange(len(frames))
    seen = share * frames.actions[frames.future_indices(rows, 32)]
    narrow = make_tokenizer(name, action_dim=2).fit(seen)
    made = trainer(frames, narrow, tmp_path, steps=2, log_every=2)
    message = capsys.readouterr().err
    usable = made.data.usable
    lost = int((~usable).sum())
    assert 0 < lost < len(frames) and f"{lost} of {len(frames)} frames have no tokens" in message
    assert usable[made._train].all() and usable[made._held_out].all()
    assert (~usable & frames.held_out[frames.episode]).any(), "no held-out frame is lost"
    assert np.isfinite(made.run()["l1_tokens"])


@pytest.mark.parametrize("name", ["bin", "fast"])
def test_a_policy_over_another_tokenizer_trains_and_samples_valid_tokens(frames, name, tmp_path):
    actions, ahead = frames.actions, frames.future_indices(np.arange(len(frames)), 32)
    other = make_tokenizer(name, action_dim=2).fit(actions[ahead])
    made = trainer(frames, other, tmp_path, steps=4, log_every=4)
    metrics = made.run()
    assert np.isfinite(metrics["l1_tokens"]) and metrics["l1_tokens"] > 0
    assert other.grammar.done(made.data.tokens.numpy()).all()
    again = load_policy(tmp_path / "policy", other)
    inputs = made.data.inputs(np.arange(3), again.config.n_obs_steps)
    other.grammar.check(again.sample_tokens(inputs).tokens.numpy())
