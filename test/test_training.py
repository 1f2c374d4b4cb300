"""Training of tokenizers: learning, resuming, damaged checkpoints, augmentation, metrics."""

import hashlib
import io
import json
import os
import re
import shutil
import time
from itertools import pairwise
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch
from fuzz import pickle_payload
from safetensors.torch import load_file

from nac_ros.cli.main import main
from nac_ros.core.errors import ConfigError
from nac_ros.datasets.action_chunks import ActionChunks, extract_chunks
from nac_ros.datasets.episode_split import split_episodes
from nac_ros.datasets.factory import open_dataset
from nac_ros.tokenizers import load_tokenizer, make_tokenizer
from nac_ros.tokenizers.base import TOKENIZERS
from nac_ros.training import loop
from nac_ros.training.image_augmentation import jitter_colours, random_shift
from nac_ros.training.tokenizer_metrics import evaluate
from nac_ros.training.tokenizer_trainer import TokenizerTrainer, TokenizerTrainingConfig, augment

SMALL = {"decoder_dim": 32, "decoder_hidden": 64, "decoder_blocks": 1, "n_filters": 8}
SMALL |= {"latent_dim": 16, "codebook_size": 64}
SIZES = {"nac": SMALL, "rotated_rvq": {"codebook_size": 64}}


def waves(n: int, seed: int) -> ActionChunks:
    """Sines of random phase and amplitude, `[n, 32, 7]`, and their first actions."""
    generator = np.random.default_rng(seed)
    phase, amplitude = generator.uniform(0, 6, (n, 1, 1)), generator.uniform(0.2, 1, (n, 1, 1))
    sines = amplitude * np.sin(phase + np.linspace(0, 3, 32)[None, :, None])
    actions = sines * np.linspace(0.5, 1, 7)
    return ActionChunks(actions.astype(np.float32), actions[:, 0].astype(np.float32))


def trainer(out, name="nac", **changes) -> TokenizerTrainer:
    """A trainer of a tiny codec, which takes seconds for tens of steps."""
    torch.manual_seed(0)
    torch.set_num_threads(1)
    tokenizer = make_tokenizer(name, relative=[True] * 6 + [False], **SIZES[name])
    quick = {"steps": 60, "batch": 32, "log_every": 60, "warmup": 5, "learning_rate": 1e-2}
    quick |= {"unquantized_share": 0.0}
    config = TokenizerTrainingConfig(**{**quick, "discriminator": "none", **changes})
    return TokenizerTrainer(tokenizer, config, out)


@pytest.mark.parametrize("loss", ["mse", "l1"])
def test_training_lowers_the_held_out_error(tmp_path, loss):
    train, held_out = waves(400, 0), waves(60, 1)
    fresh = make_tokenizer("nac", relative=[True] * 6 + [False], **SMALL).fit(*train)
    before = evaluate(fresh, held_out)["mse"]
    after = trainer(tmp_path / "run", loss=loss).run(train, held_out)
    assert after["mse"] < 0.3 * before
    assert after["decode_failures"] == 0 and after["bits"] == 12 * 6
    again = evaluate(load_tokenizer(tmp_path / "run"), held_out)
    assert again["mse"] == pytest.approx(after["mse"], rel=1e-5)


@pytest.mark.parametrize("loss", ["dct", "spectrogram", "mel"])
def test_every_loss_of_the_ablation_falls_in_training(tmp_path, loss):
    train, held_out = waves(400, 0), waves(60, 1)
    made = trainer(tmp_path / "run", loss=loss, log_every=20, discriminator="mrd")
    made.run(train, held_out)
    rows = [json.loads(line) for line in (tmp_path / "run/log.jsonl").read_text().splitlines()]
    assert rows[-1]["train"] < rows[0]["train"]


def test_a_discriminator_for_longer_signals_is_rejected(tmp_path):
    tokenizer = make_tokenizer("nac", horizon=5, action_dim=3, **SMALL)
    with pytest.raises(ConfigError, match="no discriminator 'mrd' for 15 samples"):
        TokenizerTrainer(tokenizer, TokenizerTrainingConfig(discriminator="mrd"), tmp_path)


def test_training_improves_rotated_rvq_beyond_its_initialization(tmp_path):
    train, held_out = noisy(3000, 0), noisy(100, 1)
    made = trainer(tmp_path / "run", "rotated_rvq", steps=150, learning_rate=5e-5)
    made.start(train, held_out)
    before = evaluate(made.tokenizer, held_out)
    while not made.done:
        made.advance()
    after = made.finish()
    assert after["mse"] < 0.95 * before["mse"]
    first = [found["prefixes"][2]["mse"] for found in (before, after)]
    assert first[1] < first[0]


def noisy(n: int, seed: int) -> ActionChunks:
    """Random walks `[n, 32, 7]`, too many for two codebooks to memorize."""
    steps = np.random.default_rng(seed).standard_normal((n, 32, 7)).cumsum(1)
    return ActionChunks(steps.astype(np.float32), steps[:, 0].astype(np.float32))


def test_fitting_counts_as_training_time_but_not_as_unquantized_steps(tmp_path):
    made = trainer(tmp_path / "run", seconds=3.0, unquantized_share=0.5)
    fit_codes, steps = made.tokenizer.fit_codes, []

    def slow(normalized, seed):
        steps.append(made._step)
        time.sleep(2.0 if len(steps) == 1 else 0.0)
        fit_codes(normalized, seed)

    made.tokenizer.fit_codes = slow
    metrics = made.run(waves(60, 0), waves(20, 1))
    assert steps[0] == 0 and steps[1] > 0  # unquantized steps in between
    assert 2.0 < metrics["train_seconds"] < 6.0


@pytest.mark.parametrize("name", ["nac", "rotated_rvq"])
def test_an_interrupted_run_resumes_to_the_same_weights(tmp_path, name):
    train, held_out = waves(400, 0), waves(60, 1)
    run = {"steps": 12, "log_every": 4, "discriminator": "dac", "adversarial_start": 0.0}
    run |= {"unquantized_share": 0.4, "name": name}
    whole = trainer(tmp_path / "whole", **run)
    whole.run(train, held_out)
    broken = trainer(tmp_path / "broken", **run)
    broken._evaluate_samples = _stop_at(broken, 8)
    with pytest.raises(KeyboardInterrupt):
        broken.run(train, held_out)
    resumed = trainer(tmp_path / "broken", **run)
    resumed.run(train, held_out, resume=True)
    wanted, found = whole.tokenizer.state_dict(), resumed.tokenizer.state_dict()
    assert all(
        torch.allclose(wanted[key].float(), found[key].float(), atol=1e-6) for key in wanted
    )


TINY = {"batch": 8, "log_every": 1}


def short_run(out, steps=2) -> tuple[ActionChunks, ActionChunks]:
    """A run with a checkpoint after each step, and its data."""
    train, held_out = waves(70, 0), waves(20, 1)
    trainer(out, steps=steps, **TINY).run(train, held_out)
    return train, held_out


def test_a_run_cannot_be_resumed_on_other_data(tmp_path):
    train, held_out = short_run(tmp_path, steps=1)
    before = (tmp_path / "run.json").read_text()
    other = ActionChunks(train.actions * 50, train.references)
    with pytest.raises(
        ConfigError, match=r"started with other data \(.*now .*choose another --out"
    ):
        trainer(tmp_path, steps=2, **TINY).run(other, held_out, resume=True)
    assert (tmp_path / "run.json").read_text() == before
    changed = ActionChunks(held_out.actions + np.float32(1e-6), held_out.references)
    with pytest.raises(ConfigError, match="other data"):
        trainer(tmp_path, steps=2, **TINY).run(train, changed, resume=True)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"batch": 16}, "another setting batch (8, now 16)"),
        ({"seed": 1}, "another setting seed"),
        ({"name": "rotated_rvq"}, "another model"),
    ],
)
def test_a_run_cannot_be_resumed_with_other_settings(tmp_path, changes, message):
    train, held_out = short_run(tmp_path, steps=1)
    with pytest.raises(ConfigError, match=re.escape(message)):
        trainer(tmp_path, **{"steps": 2, **TINY, **changes}).run(train, held_out, resume=True)


def test_a_run_can_be_resumed_with_more_steps(tmp_path):
    train, held_out = short_run(tmp_path, steps=1)
    more = {**TINY, "steps": 3, "log_every": 2}
    assert trainer(tmp_path, **more).run(train, held_out, resume=True)["train_steps"] == 3


def damages(content: bytes) -> dict[str, bytes]:
    """A checkpoint truncated, emptied, overwritten, or replaced by a pickle that runs code."""
    return {
        "cut": content[: len(content) // 2],
        "empty": b"",
        "overwritten": content[:200] + b"\0" * 4000 + content[4200:],
        "text": b"hello",
        "pickle": pickle_payload(Path("never-written")),
        "list": saved([1, 2]),
        "emptied": saved({}),
        "unlike": saved({"identity": {}, "random": torch.zeros(3), "step": "x"}),
    }


def saved(content) -> bytes:
    stream = io.BytesIO()
    torch.save(content, stream)
    return stream.getvalue()


def test_a_damaged_checkpoint_is_replaced_by_the_previous_one(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    train, held_out = short_run(tmp_path / "whole")
    wanted = load_file(tmp_path / "whole/model.safetensors")
    for name in ("cut", "overwritten", "pickle"):
        shutil.copytree(tmp_path / "whole", tmp_path / name)
        checkpoint = tmp_path / name / "checkpoint.pt"
        checkpoint.write_bytes(damages(checkpoint.read_bytes())[name])
        capsys.readouterr()
        trainer(tmp_path / name, steps=2, **TINY).run(train, held_out, resume=True)
        message = capsys.readouterr().err
        assert (
            "checkpoint.pt is damaged" in message
            and "resuming from checkpoint.previous.pt" in message
        )
        assert message.count("\n") == 1 and not Path("never-written").exists()
        for key, value in load_file(tmp_path / name / "model.safetensors").items():
            torch.testing.assert_close(value, wanted[key], atol=1e-6, rtol=0)


def test_resuming_without_a_checkpoint_is_reported(tmp_path, capsys):
    trainer(tmp_path, steps=1, **TINY).run(waves(70, 0), waves(20, 1), resume=True)
    message = capsys.readouterr().err
    assert message == f"nac: {tmp_path} has no checkpoint to resume; the run starts anew\n"


def test_damage_of_all_checkpoints_is_reported_in_one_sentence(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    train, held_out = short_run(tmp_path)
    content = (tmp_path / "checkpoint.pt").read_bytes()
    for name, damaged in damages(content).items():
        for file in ("checkpoint.pt", "checkpoint.previous.pt"):
            (tmp_path / file).write_bytes(damaged)
        with pytest.raises(ConfigError) as found:
            trainer(tmp_path, steps=3, **TINY).run(train, held_out, resume=True)
        text = str(found.value)
        assert "\n" not in text and "choose another --out" in text, name
        assert "checkpoint.pt" in text or "started with" in text, name
    assert not Path("never-written").exists()


def test_an_interrupted_write_keeps_the_previous_checkpoint(tmp_path, monkeypatch):
    train, held_out = short_run(tmp_path, steps=1)
    before = (tmp_path / "checkpoint.pt").read_bytes()

    def cut_off(state, path):
        Path(path).write_bytes(before[:1000])
        raise KeyboardInterrupt

    monkeypatch.setattr(torch, "save", cut_off)
    with pytest.raises(KeyboardInterrupt):
        trainer(tmp_path, steps=2, **TINY).run(train, held_out, resume=True)
    monkeypatch.undo()
    assert (tmp_path / "checkpoint.pt").read_bytes() == before
    metrics = trainer(tmp_path, steps=2, **TINY).run(train, held_out, resume=True)
    assert metrics["train_steps"] == 2


def test_a_run_resumes_after_a_crash_between_the_two_renames_of_a_checkpoint(tmp_path):
    train, held_out = short_run(tmp_path)
    (tmp_path / "checkpoint.pt").unlink()  # the power failed after the first rename
    with pytest.raises(ConfigError, match="--resume"):
        trainer(tmp_path, steps=2, **TINY).run(train, held_out)
    metrics = trainer(tmp_path, steps=2, **TINY).run(train, held_out, resume=True)
    assert metrics["train_steps"] == 2


def test_a_checkpoint_is_synced_to_disk_before_it_is_renamed(tmp_path, monkeypatch):
    events = []
    rename, sync = os.replace, os.fsync
    monkeypatch.setattr(os, "fsync", lambda fd: (events.append(("sync", _name(fd))), sync(fd))[1])
    monkeypatch.setattr(
        os, "replace", lambda a, b: (events.append(("rename", Path(b).name)), rename(a, b))[1]
    )
    for step in (1, 2):
        loop.save_checkpoint(tmp_path, {"step": step}, {"data": "x"})
    assert events[2:] == [
        ("sync", tmp_path.name),
        ("sync", "checkpoint.pt.partial"),
        ("rename", "checkpoint.previous.pt"),
        ("rename", "checkpoint.pt"),
        ("sync", tmp_path.name),
    ]
    states = [torch.load(tmp_path / name) for name in (loop.PREVIOUS, loop.CHECKPOINT)]
    assert [state["step"] for state in states] == [1, 2]


def _name(descriptor: int) -> str:
    return Path(os.readlink(f"/proc/self/fd/{descriptor}")).name


def _stop_at(stopped: TokenizerTrainer, step: int):
    """Interrupts the run after the checkpoint of `step`."""
    evaluate_samples = stopped._evaluate_samples

    def interrupted():
        if stopped._step > step:
            raise KeyboardInterrupt
        return evaluate_samples()

    return interrupted


def test_the_same_seed_gives_the_same_weights(tmp_path, twin_like):
    hashes = set()
    for run in ("a", "b"):
        sizes = [f"--model={key}={value}" for key, value in SMALL.items()]
        arguments = ["tokenizer", "train", "--data", str(twin_like), "--out", str(tmp_path / run)]
        arguments += [*sizes, "--set", "steps=6", "--set", "adversarial_start=0.3", "--seed", "0"]
        assert main(arguments) == 0
        weights = (tmp_path / run / "model.safetensors").read_bytes()
        hashes.add(hashlib.sha256(weights).hexdigest())
    assert len(hashes) == 1


@pytest.fixture(scope="session")
def twin_like(tmp_path_factory):
    """A robomimic-style file of five episodes of random walks."""
    path = tmp_path_factory.mktemp("walks") / "walks.hdf5"
    generator = np.random.default_rng(0)
    with h5py.File(path, "w") as file:
        for k in range(1, 6):
            steps = 0.02 * generator.standard_normal((60, 7)).cumsum(0)
            file.create_dataset(f"data/demo_{k}/actions", data=steps)
    return path


def test_a_run_of_some_seconds_ends_in_time_and_logs_its_codebooks(tmp_path):
    made = trainer(tmp_path, seconds=1.0, log_every=5)
    metrics = made.run(waves(200, 0), waves(40, 1))
    assert 0.9 < metrics["train_seconds"] < 3 and metrics["train_steps"] > 2
    row = json.loads((tmp_path / "log.jsonl").read_text().splitlines()[-1])
    assert len(row["perplexity"]) == len(row["use"]) == 2
    assert all(1 <= n <= 64 for n in row["perplexity"])


def test_velocity_and_transition_weights_reduce_those_errors(tmp_path):
    train, held_out = waves(400, 0), waves(60, 1)
    train.actions[..., 6] = np.sign(
        train.actions[..., 6]
    )  # the gripper opens and closes in one step
    held_out.actions[..., 6] = np.sign(held_out.actions[..., 6])
    plain = trainer(tmp_path / "plain", steps=150).run(train, held_out)
    smooth = trainer(tmp_path / "smooth", steps=150, velocity_weight=5.0).run(train, held_out)
    assert smooth["velocity_error"] < plain["velocity_error"]
    exact = trainer(tmp_path / "exact", steps=150, transition_weight=5.0).run(train, held_out)
    assert exact["per_joint"][6]["rms"] < plain["per_joint"][6]["rms"]


def test_a_run_is_not_overwritten_and_records_its_provenance(tmp_path):
    train, held_out = waves(200, 0), waves(40, 1)
    trainer(tmp_path, steps=5).run(train, held_out)
    with pytest.raises(ConfigError, match="--resume"):
        trainer(tmp_path, steps=5).run(train, held_out)
    run = json.loads((tmp_path / "run.json").read_text())
    assert run["config"]["steps"] == 5 and "torch" in run["versions"] and run["git_commit"]


def test_per_joint_errors_are_in_physical_units():
    train = waves(300, 0)
    tokenizer = make_tokenizer("nac", names=list("abcdefg"), units=["rad"] * 6 + ["m"], **SMALL)
    metrics = evaluate(tokenizer.fit(train.actions), train)
    tokens = tokenizer.encode(train.actions)
    error = tokenizer.decode(tokens).numpy() - train.actions
    assert [row["unit"] for row in metrics["per_joint"]] == ["rad"] * 6 + ["m"]
    assert metrics["per_joint"][2]["max"] == pytest.approx(np.abs(error[..., 2]).max(), rel=1e-4)
    half = (train.actions.max((0, 1)) - train.actions.min((0, 1))) / 2
    assert metrics["mse"] == pytest.approx(np.mean((error / half) ** 2), rel=1e-4)
    assert all(0 < share <= 1 for share in metrics["codebook_use"])


def test_augmentation_keeps_the_first_step_and_the_shape():
    chunks, relative = torch.randn(64, 32, 7), torch.tensor([True] * 6 + [False])
    changed = augment(chunks, augmenting(warp_probability=1.0), relative)
    assert changed.shape == chunks.shape
    assert torch.allclose(changed[:, 0], chunks[:, 0])
    assert not torch.allclose(changed, chunks)
    assert torch.allclose(augment(chunks, augmenting(), relative), chunks, atol=1e-6)


def test_mirroring_does_not_change_the_gripper():
    chunks, relative = torch.randn(64, 32, 7), torch.tensor([True] * 6 + [False])
    mirrored = augment(chunks, augmenting(mirror_probability=1.0), relative)
    assert torch.allclose(mirrored, torch.where(relative, -chunks, chunks))


def augmenting(**changes) -> TokenizerTrainingConfig:
    """A config without other augmentation than `changes`."""
    return TokenizerTrainingConfig(**{"scale_range": 0.0, "warp_probability": 0.0, **changes})


def test_all_steps_of_an_observation_are_augmented_alike():
    image = torch.randint(0, 256, (6, 1, 24, 24, 3), dtype=torch.uint8).expand(-1, 2, -1, -1, -1)
    for changed in (random_shift(image, 4), jitter_colours(image, 0.2, 0.2)):
        assert changed.dtype == torch.uint8 and changed.shape == image.shape
        assert torch.equal(changed[:, 0], changed[:, 1])
        assert not torch.equal(changed, image)
    assert torch.equal(random_shift(image, 0), image)


def test_the_learning_rate_warms_up_and_decays_to_its_floor():
    rates = [loop.cosine_rate(step, 100, 10) for step in range(100)]
    assert rates[0] == pytest.approx(0.1) and max(rates) == pytest.approx(1.0)
    assert rates[-1] == pytest.approx(0.02, abs=1e-2)
    assert all(a >= b for a, b in pairwise(rates[10:]))


def test_averaged_weights_approach_the_trained_ones():
    module = torch.nn.Linear(2, 2)
    averaged = loop.AveragedWeights(module, 0.9)
    with torch.no_grad():
        module.weight.fill_(1.0)
    for step in range(200):
        averaged.update(module, step)
    assert torch.allclose(averaged.state["weight"], torch.ones(2, 2), atol=1e-3)


@pytest.mark.parametrize("bad", [{"steps": 0}, {"adversarial_start": 2.0}])
def test_invalid_training_configs_are_rejected(bad):
    with pytest.raises(ConfigError):
        TokenizerTrainingConfig(**bad)


@pytest.mark.parametrize(
    ("name", "steps", "learning_rate", "bound"),
    [("nac", 300, 5e-3, 0.06), ("rotated_rvq", 80, 2e-5, 0.0035)],
)
def test_real_demonstrations_are_learned(nac_data, tmp_path, name, steps, learning_rate, bound):
    """Published split; repeating the first action scores .105, predicting the mean .195."""
    dataset = open_dataset(nac_data / "piper_real", action_key="observation.state")
    (split,) = split_episodes([len(dataset.episodes)])
    train = extract_chunks(dataset, split.train, 32)
    held_out = extract_chunks(dataset, split.test[:4], 32)
    tokenizer = make_tokenizer(name, relative=[True] * 6 + [False], **SIZES[name])
    before = evaluate(tokenizer.fit(*train), held_out)["mse"]
    quick = {"steps": steps, "batch": 32, "learning_rate": learning_rate, "log_every": 80}
    share = TOKENIZERS.get(name).training_defaults["small"]["unquantized_share"]
    config = TokenizerTrainingConfig(**quick, unquantized_share=share, discriminator="none")
    metrics = TokenizerTrainer(tokenizer, config, tmp_path).run(train, held_out)
    assert metrics["mse"] < bound and metrics["mse"] < 0.8 * before
    if name == "rotated_rvq":  # PCA reconstructs before any training
        assert before < 0.005
    assert metrics["decode_failures"] == 0
