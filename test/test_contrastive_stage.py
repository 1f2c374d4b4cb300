"""The first codebook trained with a time-contrastive term, then frozen with the encoder."""

import numpy as np
import pytest
import torch

from nac_ros.core.errors import ConfigError, DatasetError
from nac_ros.datasets.action_chunks import ActionChunks
from nac_ros.tokenizers import make_tokenizer
from nac_ros.training.contrastive_stage import FirstStage
from nac_ros.training.tokenizer_metrics import evaluate
from nac_ros.training.tokenizer_trainer import TokenizerTrainer, TokenizerTrainingConfig

STEPS = 40
CONTRASTIVE = {"contrastive_share": 0.5, "unquantized_share": 0.25}


def motions(n_episodes, seed):
    """Chunks `[n * 33, 8, 3]` of sums of sines with noise, stride 1, and their first action."""
    rng = np.random.default_rng(seed)
    phase, speed = rng.uniform(0, 6, (2, n_episodes, 1, 3))
    motion = np.sin(0.03 * speed * np.arange(40)[:, None] + phase)
    motion += rng.normal(0, 0.02, motion.shape)
    windows = motion[:, np.arange(33)[:, None] + np.arange(8)]  # [n, 33, 8, 3]
    actions = windows.reshape(-1, 8, 3).astype(np.float32)
    return ActionChunks(actions, actions[:, 0])


def trainer(out, name="vqvla", **changes):
    torch.manual_seed(0)
    torch.set_num_threads(1)
    sizes = {"codebook_size": 16, "latent_dim": 8, "n_quantizers": 4, "widths": [8, 16, 16]}
    sizes |= {"bottleneck_dim": 32, "bottleneck_hidden": 32}
    sizes = sizes if name == "vqvla" else {}
    tokenizer = make_tokenizer(name, "small", 8, 3, relative=[True] * 3, **sizes)
    values = {"steps": STEPS, "batch": 32, "discriminator": "none", "learning_rate": 3e-3}
    return TokenizerTrainer(
        tokenizer, TokenizerTrainingConfig(**{**values, "log_every": 10, **changes}), out
    )


def test_encoder_and_first_codebook_are_trained_alone_and_then_stay(tmp_path):
    made = trainer(tmp_path, **CONTRASTIVE)
    made.start(motions(20, 0), motions(4, 1))
    tokenizer = made.tokenizer

    def state():
        return {key: value.clone() for key, value in tokenizer.state_dict().items()}

    before = state()
    while made._step < STEPS // 2:
        made.advance()
    half = state()
    while not made.done:
        made.advance()
    after = state()
    first, second = "quantizer.codebooks.0.codewords", "quantizer.codebooks.1.codewords"
    encoder = [key for key in after if key.startswith("encoder.")]
    assert all(torch.equal(half[key], after[key]) for key in (first, *encoder))
    assert any(not torch.equal(before[key], half[key]) for key in encoder)
    assert not torch.equal(before[first], half[first])
    assert not torch.equal(half[second], after[second])
    assert any(not torch.equal(half[k], after[k]) for k in after if k.startswith("decoder."))


def test_training_with_the_term_tells_neighbours_from_other_chunks_better(tmp_path):
    train, held_out = motions(30, 0), motions(8, 1)

    def loss(name, weight):
        """Of held-out chunks."""
        made = trainer(tmp_path / name, steps=60, **CONTRASTIVE, contrastive_weight=weight)
        made.run(train, held_out)
        chunks, rows = made.tokenizer.normalize(*held_out), held_out.consecutive[::8]
        with torch.no_grad():
            stage = FirstStage(made.tokenizer)
            return stage.contrastive_loss(chunks, torch.from_numpy(rows), 0.1)

    assert loss("with", 1.0) < 0.8 * loss("without", 0.0)


@pytest.mark.parametrize("stop", [15, 30])
def test_an_interrupted_run_resumes_to_the_same_weights(tmp_path, stop):
    train, held_out = motions(10, 0), motions(2, 1)
    whole = trainer(tmp_path / "whole", log_every=5, **CONTRASTIVE)
    whole.run(train, held_out)
    broken = trainer(tmp_path / "broken", log_every=5, **CONTRASTIVE)
    broken.start(train, held_out)
    while broken._step < stop:
        broken.advance()
    resumed = trainer(tmp_path / "broken", log_every=5, **CONTRASTIVE)
    resumed.run(train, held_out, resume=True)
    wanted, found = whole.tokenizer.state_dict(), resumed.tokenizer.state_dict()
    for key, value in wanted.items():
        torch.testing.assert_close(found[key], value, atol=1e-5, rtol=1e-4, msg=key)


def test_the_loss_is_least_where_neighbours_are_alike_and_others_are_not():
    made = make_tokenizer("vqvla", "small", 8, 3)
    chunks = torch.from_numpy(motions(32, 0).actions)
    stage, rows = FirstStage(made), 33 * torch.arange(32)
    with torch.no_grad():
        alike = stage.contrastive_loss(chunks, rows, 0.1)
        shuffled = chunks[torch.randperm(len(chunks), generator=torch.Generator().manual_seed(0))]
        other = stage.contrastive_loss(shuffled, rows, 0.1)
        near = stage.contrastive_loss(chunks, torch.arange(7), 0.1)  # all overlap: none repels
    assert alike < 0.5 * other and near == 0


def test_data_and_tokenizers_without_what_it_needs_are_refused(tmp_path):
    with pytest.raises(ConfigError, match=r"contrastive_share needs .* rotated_rvq has none"):
        trainer(tmp_path, "rotated_rvq", **CONTRASTIVE)
    with pytest.raises(ConfigError, match="above unquantized_share"):
        TokenizerTrainingConfig(contrastive_share=0.1, unquantized_share=0.2)
    alone = motions(40, 0).select(slice(None, None, 33))
    with pytest.raises(DatasetError, match="one step apart"):
        trainer(tmp_path, **CONTRASTIVE).start(alone, alone)


def test_without_the_option_nothing_is_frozen(tmp_path):
    made = trainer(tmp_path, steps=3)
    found = made.run(motions(10, 0), motions(2, 1))
    assert all(p.requires_grad for p in made.tokenizer.parameters())
    assert not made.tokenizer.quantizer.codebooks[0].frozen
    assert found["mse"] == pytest.approx(evaluate(made.tokenizer, motions(2, 1))["mse"])
