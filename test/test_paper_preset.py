"""NAC at the size of the paper: training, export, decoding in ONNX Runtime; padding."""

import numpy as np
import pytest
import torch

from nac_ros.datasets.action_chunks import ActionChunks
from nac_ros.export.onnx import TOLERANCE, export_detokenizer, max_onnx_error
from nac_ros.export.onnx_session import OnnxDetokenizer
from nac_ros.tokenizers import load_tokenizer, make_tokenizer
from nac_ros.training.tokenizer_trainer import TokenizerTrainer, TokenizerTrainingConfig


def walks(n, horizon=32, dim=7, seed=0):
    """Smooth random chunks `[n, H, D]` with their references `[n, D]`."""
    steps = np.random.default_rng(seed).standard_normal((n, horizon, dim)).cumsum(1)
    return ActionChunks((0.02 * steps).astype(np.float32), (0.02 * steps[:, 0]).astype(np.float32))


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """The preset `paper` after a few adversarial steps, saved and loaded."""
    torch.set_num_threads(2)
    torch.manual_seed(0)
    tokenizer = make_tokenizer("nac", preset="paper")
    before = [p.detach().clone() for p in tokenizer.codec.parameters()]
    out = tmp_path_factory.mktemp("paper") / "run"
    settings = {"steps": 3, "batch": 8, "log_every": 3, "warmup": 1, "unquantized_share": 0.0}
    config = TokenizerTrainingConfig(**settings, discriminator="dac", adversarial_start=0.0)
    metrics = TokenizerTrainer(tokenizer, config, out).run(walks(160), walks(16, seed=1))
    moved = [not torch.equal(p, q) for p, q in zip(tokenizer.codec.parameters(), before)]
    assert np.isfinite(metrics["mse"]) and np.mean(moved) > 0.95
    torch.set_num_threads(1)
    return load_tokenizer(out)


def test_it_has_the_size_and_tokens_of_the_paper(trained):
    assert trained.params_m == pytest.approx(63.005842)
    assert trained.bits == 120 and trained.vocab_size == 2048
    assert trained.encode(walks(2).actions).shape == (2, 12)


def test_the_detokenizer_decodes_in_onnx_runtime_as_in_torch(trained, tmp_path):
    export_detokenizer(trained, tmp_path / "detokenizer.onnx")
    assert max_onnx_error(trained, OnnxDetokenizer(tmp_path / "detokenizer.onnx")) <= TOLERANCE


@pytest.mark.parametrize(("horizon", "dim"), [(30, 6), (50, 14), (32, 28)])
def test_other_robots_and_horizons_can_be_encoded_and_exported(horizon, dim, tmp_path):
    small = {"decoder_dim": 32, "decoder_hidden": 64, "decoder_blocks": 1, "n_filters": 4}
    small |= {"latent_dim": 16, "codebook_size": 32}
    tokenizer = make_tokenizer("nac", horizon=horizon, action_dim=dim, **small)
    actions = walks(100, horizon, dim).actions
    tokenizer.fit(actions)
    tokens = tokenizer.encode(actions[:3])
    assert tokens.shape == (3, tokenizer.grammar.max_tokens)
    assert tokenizer.decode(tokens).shape == (3, horizon, dim)
    export_detokenizer(tokenizer, tmp_path / "detokenizer.onnx")
    assert max_onnx_error(tokenizer, OnnxDetokenizer(tmp_path / "detokenizer.onnx")) <= TOLERANCE


@pytest.mark.parametrize(("horizon", "dim"), [(30, 6), (50, 14), (32, 28)])
def test_padding_gets_no_gradient(horizon, dim):
    small = {"decoder_dim": 32, "decoder_hidden": 64, "decoder_blocks": 1, "n_filters": 4}
    tokenizer = make_tokenizer(
        "nac", "small", horizon, dim, latent_dim=16, codebook_size=32, **small
    )
    codec = tokenizer.codec.train()
    waves = []
    codec.decoder.register_forward_hook(lambda module, inputs, wave: waves.append(wave))
    reconstruction, _ = codec(torch.randn(4, horizon, dim))
    waves[0].retain_grad()
    reconstruction.square().sum().backward()
    padding = waves[0].grad.flatten(1)[:, horizon * dim :]
    assert (padding == 0).all() and waves[0].grad.abs().sum() > 0
    padded = codec.config.padded_length
    assert padding.shape[1] == padded - horizon * dim
