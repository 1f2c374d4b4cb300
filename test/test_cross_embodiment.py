"""Several robots with one codec: own dimensions and statistics, the same tokens."""

import numpy as np
import pytest
import torch

from nac_ros.cli.main import main
from nac_ros.core.errors import ConfigError
from nac_ros.datasets.action_chunks import ActionChunks
from nac_ros.tokenizers import load_tokenizer
from nac_ros.tokenizers.cross_embodiment import make_cross_embodiment
from nac_ros.training.tokenizer_trainer import TokenizerTrainingConfig, train_cross_embodiment

TINY = {"decoder_dim": 32, "decoder_hidden": 64, "decoder_blocks": 1, "n_filters": 4}
TINY |= {"latent_dim": 16, "codebook_size": 64}
ROBOTS = {"long": 7, "short": 6}


def waves(dim, n=300, seed=0):
    """Sines `[n, 32, dim]`, larger for the robot with 6 joints, and their first actions."""
    generator = np.random.default_rng(seed)
    phase, size = generator.uniform(0, 6, (n, 1, 1)), generator.uniform(0.2, 1, (n, 1, 1))
    sines = size * np.sin(phase + np.linspace(0, 3, 32)[:, None]) * np.linspace(0.5, 1, dim)
    actions = (sines * (0.1 if dim == 7 else 1.0)).astype(np.float32)
    return ActionChunks(actions, actions[:, 0])


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """Folder of two tokenizers after a few steps, and their metrics."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    robots = {
        name: {"action_dim": dim, "relative": [True] * (dim - 1) + [False]}
        for name, dim in ROBOTS.items()
    }
    members = make_cross_embodiment(robots, **TINY)
    out = tmp_path_factory.mktemp("members")
    data = {name: (waves(dim), waves(dim, 40, 1)) for name, dim in ROBOTS.items()}
    quick = {"steps": 60, "batch": 32, "log_every": 60, "discriminator": "none", "warmup": 5}
    config = TokenizerTrainingConfig(**quick, learning_rate=1e-2)
    return out, train_cross_embodiment(members, data, config, out)


def test_each_robot_is_decoded_to_its_own_dimensions_and_units(trained):
    out, metrics = trained
    for name, dim in ROBOTS.items():
        member, chunks = load_tokenizer(out / name), waves(dim, 9, 2)
        tokens = member.encode(*chunks)
        decoded = member.decode(tokens, chunks.references).numpy()
        assert decoded.shape == (9, 32, dim) and tokens.shape == (9, 12)
        error = np.square(decoded - chunks.actions).mean()
        assert error < 0.3 * chunks.actions.var()
        assert metrics[name]["decode_failures"] == 0
        assert [row["name"] for row in metrics[name]["per_joint"]] == [
            f"dim{k}" for k in range(dim)
        ]


def test_robots_share_one_token_space_and_have_their_own_embedding(trained):
    out, _ = trained
    long, short = (load_tokenizer(out / name) for name in ROBOTS)
    assert torch.equal(long.embeddings(), short.embeddings())
    assert long.grammar.max_tokens == short.grammar.max_tokens
    shared = long.codec.decoder.blocks.state_dict()
    for key, value in short.codec.decoder.blocks.state_dict().items():
        assert torch.equal(value, shared[key])
    assert not torch.equal(long.codec.embedding, short.codec.embedding)
    assert not torch.equal(long.high[:6], short.high)


def test_tokens_of_one_robot_are_legal_for_the_other(trained):
    out, _ = trained
    long, short = (load_tokenizer(out / name) for name in ROBOTS)
    chunks = waves(7, 5, 3)
    decoded = short.decode(long.encode(*chunks), np.zeros((5, 6), np.float32))
    assert decoded.shape == (5, 32, 6) and torch.isfinite(decoded).all()


def test_robots_with_different_numbers_of_tokens_are_rejected():
    with pytest.raises(ConfigError, match=r"of a have .* tokens per scale, those of b"):
        make_cross_embodiment({"a": {"horizon": 32}, "b": {"horizon": 64}}, **TINY)
    with pytest.raises(ConfigError, match="at least 2 robots"):
        make_cross_embodiment({"a": {}}, **TINY)


def test_the_numbers_of_names_and_datasets_must_match(capsys, tmp_path):
    arguments = ["tokenizer", "train", "--data", "a", "b", "--embodiments", "x", "--out", "o"]
    assert main(arguments) == 2
    assert "1 names and 2 datasets" in capsys.readouterr().err


def test_two_real_robots_can_share_a_codec(nac_data, tmp_path, capsys):
    """Piper (7-D, 15 Hz) and SO-101 (6-D, 30 Hz), each decoded to its own joints."""
    sizes = [f"--model={key}={value}" for key, value in TINY.items()]
    arguments = ["tokenizer", "train", "--relative", "--embodiments", "piper", "so101"]
    arguments += ["--data", str(nac_data / "piper_real"), str(nac_data / "so101_real")]
    arguments += ["--action-key", "observation.state", "action", "--out", str(tmp_path)]
    assert main([*arguments, *sizes, "--set", "steps=20", "--set", "batch=32"]) == 0
    for name, joints in (("piper", 7), ("so101", 6)):
        member = load_tokenizer(tmp_path / name)
        assert len(member.config.names) == joints
    assert "so101" in capsys.readouterr().out
