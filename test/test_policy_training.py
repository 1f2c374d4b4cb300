"""Training of a token policy: targets, frozen vision encoder, resuming, unusable frames."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch

from nac_ros.core.chunk_spec import ChunkSpec
from nac_ros.core.device import CPU
from nac_ros.core.errors import BadActions, ConfigError, DatasetError
from nac_ros.datasets.frames import Frames, ImageStack
from nac_ros.policies.base import load_policy, make_policy
from nac_ros.tokenizers import make_tokenizer
from nac_ros.training.policy_trainer import PolicyTrainer, PolicyTrainingConfig

SIZE, LENGTH, EPISODES = 32, 20, 40
QUICK = {"steps": 6, "batch": 8, "warmup": 2, "log_every": 3}


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
        validation=np.arange(EPISODES) % 5 == 4,
        test=np.zeros(EPISODES, bool),
        names=("x", "y"),
        fps=30,
        intervention=np.zeros(len(episode), bool),
    )


@pytest.fixture(scope="module")
def tokenizer(frames):
    rows = np.arange(len(frames))
    small = {"decoder_dim": 32, "decoder_hidden": 64, "decoder_blocks": 1, "n_filters": 4}
    made = make_tokenizer("nac", action_dim=2, relative=[True, True], latent_dim=8, **small)
    return made.fit(
        frames.actions[frames.indices_after(rows, np.arange(32))], frames.proprio
    ).eval()


def trainer(
    frames, source, out, model=None, name="ar_guided", features_dir=None, **training
) -> PolicyTrainer:
    """source: tokenizer, or ChunkSpec"""
    torch.manual_seed(0)
    torch.set_num_threads(1)
    facts = {"cameras": ["scene"], "tasks": {"reach": "reach"}, "state_dim": 2}
    facts |= {"image_size": SIZE, "dim": 32, "n_heads": 2, "vision_width": 32}
    facts |= {"n_layers": 1} if name.startswith("ar") else {}
    config = {**facts, **(model or {})}
    policy = make_policy(name, "small", source, **config)
    config = PolicyTrainingConfig(**{**QUICK, **training})
    return PolicyTrainer(policy, frames, config, out, features_dir=features_dir, device=CPU)


def test_future_actions_are_those_further_ahead(frames, tokenizer, tmp_path):
    made = trainer(frames, tokenizer, tmp_path)
    targets = made.data.targets(np.array([3]))
    future = tokenizer.denormalize(targets["future"], frames.proprio[[3]])[0].numpy()
    expected = frames.actions[np.minimum(3 + 4 * np.arange(32), LENGTH - 1)]
    np.testing.assert_allclose(future, expected, atol=1e-5)


def test_targets_are_relative_to_the_state_with_its_noise(frames, tokenizer, tmp_path):
    made = trainer(frames, tokenizer, tmp_path, state_noise=0.5)
    rows = np.arange(8)
    inputs, targets = made._batch(rows)
    seen = inputs.proprio[:, -1]
    assert not torch.allclose(seen, torch.from_numpy(frames.proprio[rows]), atol=1e-3)
    actions = tokenizer.denormalize(targets["chunk"], seen).numpy()
    expected = frames.actions[frames.indices_after(rows, np.arange(32))]
    np.testing.assert_allclose(actions, expected, atol=1e-5)
    assert torch.equal(targets["tokens"], tokenizer.encode_normalized(targets["chunk"]))


def test_images_of_another_size_than_the_policy_takes_are_rejected(frames, tokenizer, tmp_path):
    with pytest.raises(DatasetError, match="32 x 32 pixels, the policy takes 48 x 48"):
        trainer(frames, tokenizer, tmp_path, {"image_size": 48})


@pytest.mark.parametrize("name", ["ar", "regression", "diffusion", "flow"])
def test_every_policy_trains_and_its_saved_weights_predict_the_same(
    frames, tokenizer, name, tmp_path
):
    spec = ChunkSpec(action_dim=2, relative=(True, True))
    source = tokenizer if name == "ar" else spec
    made = trainer(frames, source, tmp_path, name=name)
    metrics = made.run()
    assert np.isfinite(metrics["l1"])
    again = load_policy(tmp_path / "policy", tokenizer if name == "ar" else None)
    inputs = made.data.inputs(np.arange(3))
    with made._averaged.applied_to(made.policy):
        ours, theirs = (
            policy.eval().predict(inputs, generator=torch.Generator().manual_seed(0)).chunk
            for policy in (made.policy, again)
        )
    assert torch.allclose(ours, theirs, atol=1e-5)


def test_without_token_loss_only_vision_and_regression_head_are_trained(
    frames, tokenizer, tmp_path
):
    regression_alone = {"token_weight": 0.0, "acts_by": "regression"}
    fast = {"learning_rate": 3e-3, "vision_learning_rate": 3e-3, "batch": 32, "ema_decay": 0.9}
    made = trainer(frames, tokenizer, tmp_path, regression_alone, steps=100, **fast)
    before = {key: value.clone() for key, value in made.policy.state_dict().items()}
    first = made.evaluate()["l1_regression"]
    after = made.run()["l1_regression"]
    assert after < 0.8 * first
    now = made.policy.state_dict()
    changed = {key for key, value in before.items() if (now[key] != value).any()}
    assert any(key.startswith("observation_encoder.vision.") for key in changed)
    assert not any(
        key.startswith(("transformer.", "codeword_head.residual_projection")) for key in changed
    )


def test_the_environment_state_of_the_frames_is_observed(frames, tokenizer, tmp_path):
    state = np.linspace(0, 1, 3 * len(frames), dtype=np.float32).reshape(-1, 3)
    observed = replace(frames, environment_state=state)
    made = trainer(observed, tokenizer, tmp_path, {"environment_state_dim": 3}, "ar")
    rows = np.array([LENGTH, 57])  # the first frame of an episode is repeated before it
    history = made.data.inputs(rows).environment_state.numpy()
    np.testing.assert_array_equal(history, state[[[LENGTH, LENGTH], [56, 57]]])
    made.run()
    saved = load_policy(tmp_path / "policy", tokenizer)
    training = state[made._train]
    np.testing.assert_allclose(saved.environment_mean.numpy(), training.mean(0), rtol=1e-5)
    with pytest.raises(DatasetError, match="environment state of 3 numbers, the frames have none"):
        trainer(frames, tokenizer, tmp_path / "other", {"environment_state_dim": 3}, "ar")


def test_a_frozen_vision_encoder_does_not_change_and_the_rest_does(frames, tokenizer, tmp_path):
    made = trainer(frames, tokenizer, tmp_path, cached_views=2)
    before = {key: value.clone() for key, value in made.policy.state_dict().items()}
    made.run()
    after = load_policy(tmp_path / "policy", tokenizer).state_dict()
    for key, value in before.items():
        if key.startswith("observation_encoder.vision."):
            assert torch.equal(after[key], value), key
    assert not torch.equal(after["plan_projection.weight"], before["plan_projection.weight"])


def test_cached_features_belong_to_their_frames(frames, tokenizer, tmp_path):
    plain = {"shift": 0, "brightness": 0.0, "contrast": 0.0, "state_noise": 0.0}
    made = trainer(frames, tokenizer, tmp_path, cached_views=1, **plain)
    made.run()
    rows = made._train[[0, 7, 50]]
    cached = made._augmented_images(rows).image_features.float()
    made.policy.eval()
    with torch.no_grad():
        fresh = made.policy.encode_images(made.data.inputs(rows))
    torch.testing.assert_close(cached, fresh, atol=2e-3, rtol=2e-3)  # stored in float16


def test_runs_with_the_same_image_encoders_share_their_cached_features(
    frames, tokenizer, tmp_path, monkeypatch
):
    shared = tmp_path / "features"
    trainer(frames, tokenizer, tmp_path / "a", cached_views=1, features_dir=shared).run()
    other = trainer(frames, tokenizer, tmp_path / "b", cached_views=1, features_dir=shared)
    (file,) = shared.iterdir()
    with monkeypatch.context() as patched:
        patched.setattr(other, "_view_features", lambda: pytest.fail("computed again"))
        other.run()
    assert torch.equal(other._features, torch.from_numpy(np.load(file)))
    brighter = {"cached_views": 1, "brightness": 0.5, "features_dir": shared}
    trainer(frames, tokenizer, tmp_path / "c", **brighter).run()
    assert len(list(shared.iterdir())) == 2


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
        lambda frames: replace(frames, validation=np.arange(EPISODES) % 5 == 3),
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
    ahead = frames.indices_after(np.arange(len(frames)), np.arange(32))
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


def test_frames_with_nan_are_left_out_and_counted(frames, tokenizer, tmp_path, capsys):
    actions = frames.actions.copy()
    actions[3] = np.nan
    made = trainer(replace(frames, actions=actions), tokenizer, tmp_path)
    assert "1 episodes hold NaN or inf and are left out: 0" in capsys.readouterr().err
    used = np.concatenate([made._train, made._held_out])
    assert set(used) == set(range(LENGTH, len(frames)))
    with pytest.raises(BadActions, match="every episode holds NaN"):
        trainer(replace(frames, actions=actions * np.nan), tokenizer, tmp_path)


@pytest.mark.parametrize(("name", "share"), [("bin", 0.7), ("fast", 0.3)])
def test_a_frame_whose_chunk_has_no_tokens_is_left_out_alone(
    frames, name, share, tmp_path, capsys
):
    rows = np.arange(len(frames))
    seen = share * frames.actions[frames.indices_after(rows, np.arange(32))]
    narrow = make_tokenizer(name, action_dim=2).fit(seen)
    made = trainer(frames, narrow, tmp_path, steps=2, log_every=2)
    message = capsys.readouterr().err
    usable = np.isin(rows, np.concatenate([made._train, made._held_out]))
    lost = int((~usable).sum())
    assert 0 < lost < len(frames) and f"{lost} of {len(frames)} frames have no targets" in message
    assert (~usable & frames.validation[frames.episode]).any(), "no held-out frame is lost"
    assert np.isfinite(made.run()["l1"])


@pytest.mark.parametrize("name", ["bin", "fast"])
def test_a_policy_over_another_tokenizer_trains_and_samples_valid_tokens(frames, name, tmp_path):
    rows = np.arange(len(frames))
    actions, ahead = frames.actions, frames.indices_after(rows, np.arange(32))
    other = make_tokenizer(name, action_dim=2).fit(actions[ahead])
    made = trainer(frames, other, tmp_path, steps=4, log_every=4)
    metrics = made.run()
    assert np.isfinite(metrics["l1"]) and metrics["l1"] > 0
    tokens = made.data.targets(np.arange(len(frames)))["tokens"]
    assert other.grammar.done(tokens.numpy()).all()
    again = load_policy(tmp_path / "policy", other)
    inputs = made.data.inputs(np.arange(3))
    other.grammar.check(again.sample_tokens(inputs).tokens.numpy())
