"""nac: every preset is the paper's codec, and both of its networks matter."""

import numpy as np
import pytest
import torch

from nac_ros.codec.quantizer import ResidualVectorQuantizer
from nac_ros.codec.seanet import SeanetEncoder
from nac_ros.codec.vocos import IstftHead, VocosDecoder
from nac_ros.core.errors import ConfigError
from nac_ros.datasets.action_chunks import ActionChunks
from nac_ros.tokenizers import make_tokenizer
from nac_ros.tokenizers.base import TOKENIZERS
from nac_ros.training.tokenizer_trainer import TokenizerTrainer, TokenizerTrainingConfig

PRESETS = tuple(TOKENIZERS.get("nac").presets)
# narrower and fewer layers than those of any preset, so that a test trains in seconds
TINY = {"n_filters": 8, "latent_dim": 16, "codebook_size": 64, "decoder_dim": 32}
TINY |= {"decoder_hidden": 64, "decoder_blocks": 1}


def waves(n: int, seed: int) -> ActionChunks:
    """Sines of random phase and amplitude, `[n, 32, 7]`."""
    generator = np.random.default_rng(seed)
    phase, amplitude = generator.uniform(0, 6, (n, 1, 1)), generator.uniform(0.2, 1, (n, 1, 1))
    sines = amplitude * np.sin(phase + np.linspace(0, 3, 32)[None, :, None])
    actions = (sines * np.linspace(0.5, 1, 7)).astype(np.float32)
    return ActionChunks(actions, actions[:, 0])


@pytest.mark.parametrize("preset", PRESETS)
def test_every_preset_has_the_structure_of_the_paper(preset):
    made = make_tokenizer("nac", preset)
    codec, config = made.codec, made.config
    assert {name for name, _ in codec.named_children()} == {"encoder", "quantizer", "decoder"}
    assert isinstance(codec.encoder, SeanetEncoder)
    assert codec.encoder.layers[0].conv.in_channels == 1  # one waveform
    assert isinstance(codec.quantizer, ResidualVectorQuantizer)
    assert codec.quantizer.scales == (2, 1) and config.tokens_per_scale == (4, 8)
    assert isinstance(codec.decoder, VocosDecoder) and isinstance(codec.decoder.head, IstftHead)
    assert (config.hop, config.n_steps, config.n_fft) == (28, 8, 224)
    assert made.bits == 120 and made.grammar.token_time_spans[0].tolist() == [0, 8]


@pytest.mark.parametrize("preset", PRESETS)
def test_without_either_network_the_error_rises_clearly(preset, tmp_path):
    torch.manual_seed(0)
    torch.set_num_threads(1)
    made = make_tokenizer("nac", preset, **TINY)
    quick = {"steps": 120, "batch": 32, "log_every": 120, "warmup": 5, "learning_rate": 1e-2}
    config = TokenizerTrainingConfig(**quick, discriminator="none")
    held_out = waves(60, 1)
    TokenizerTrainer(made, config, tmp_path / "run").run(waves(400, 0), held_out)
    whole = error(made, held_out)
    for network in (made.codec.encoder, made.codec.decoder):
        assert error(made, held_out, network) > 3 * whole


def error(tokenizer, chunks: ActionChunks, averaged=None) -> float:
    """Mean squared error; `averaged`: a network whose output is replaced by its mean."""
    hook = averaged and averaged.register_forward_hook(
        lambda module, inputs, output: output.mean(0, keepdim=True).expand_as(output)
    )
    decoded = tokenizer.decode(tokenizer.encode(chunks.actions)).numpy()
    if hook:
        hook.remove()
    return float(np.square(decoded - chunks.actions).mean())


@pytest.mark.parametrize("field", ["layout", "quantizer", "path_hidden"])
def test_it_has_no_option_that_turns_it_into_another_codec(field):
    with pytest.raises(ConfigError, match=field):
        make_tokenizer("nac", **{field: 1})
