"""Codec: sizes of the paper, inverse STFT, EMA codebooks and their revival, discriminators."""

import pytest
import torch
from torch.nn import functional as F

from nac_ros.codec.config import CodecConfig
from nac_ros.codec.discriminators import Discriminator, discriminator_loss, feature_loss
from nac_ros.codec.model import Codec
from nac_ros.codec.quantizer import EmaCodebook, ResidualVectorQuantizer
from nac_ros.codec.seanet import SeanetEncoder, fold_weight_norm, folded_parameters
from nac_ros.codec.vocos import MAX_MAGNITUDE, IstftHead

SMALL = {"n_filters": 4, "latent_dim": 16, "codebook_size": 32, "decoder_dim": 32}
SMALL |= {"decoder_hidden": 64, "decoder_blocks": 1, "norm_ids": 0}


def test_the_paper_preset_has_as_many_parameters_as_the_paper():
    codec = Codec(CodecConfig())
    assert codec.n_parameters == 63_005_842
    assert codec.config.tokens_per_scale == (4, 8)


@pytest.mark.parametrize(("horizon", "dim"), [(32, 7), (30, 6), (50, 14), (5, 3)])
def test_decoded_chunks_have_the_shape_of_encoded_ones(horizon, dim):
    codec = Codec(CodecConfig(horizon=horizon, action_dim=dim, **SMALL)).eval()
    chunk = torch.randn(2, horizon, dim)
    codes = codec.encode(chunk)
    assert [len(c[0]) for c in codes] == list(codec.config.tokens_per_scale)
    assert codec.decode(codes).shape == chunk.shape


def test_the_reconstruction_has_no_padding():
    codec = Codec(CodecConfig(horizon=30, action_dim=6, **SMALL))
    actions, _ = codec.train()(torch.randn(2, 30, 6))
    assert actions.shape == (2, 30, 6)
    assert codec.config.padded_length > 30 * 6


@pytest.mark.parametrize("head", ["istft", "linear"])
def test_gradients_reach_encoder_and_decoder(head):
    codec = Codec(CodecConfig(head=head, **SMALL)).train()
    chunk = torch.randn(8, 32, 7)
    actions, quantized = codec(chunk)
    (F.mse_loss(actions, chunk) + quantized.commitment).backward()
    for part in (codec.encoder, codec.decoder):
        assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in part.parameters())


def test_prefix_dropout_decodes_some_chunks_from_the_first_scale_alone():
    codec = Codec(CodecConfig(prefix_dropout=0.5, **SMALL)).train()
    chunks = torch.randn(64, 32, 7, generator=torch.Generator().manual_seed(0))
    codec.init_codebooks(chunks, 0)
    quantizer, latent = codec.quantizer.eval(), codec.latent(chunks)
    torch.manual_seed(0)
    total = quantizer(latent, dropout=0.5).latent
    coarse = quantizer.dequantize(quantizer(latent).codes[:1])
    is_prefix = (total - coarse).abs().amax((1, 2)) < 1e-5
    assert 0.2 < is_prefix.float().mean() < 0.8


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"prefix_dropout": 1.0}, r"prefix_dropout 1\.0"),
        ({"vq_scales": ()}, "vq_scales must be whole numbers of at least 1"),
        ({"n_filters": 0}, "n_filters must be at least 1, got 0"),
        ({"decoder_dim": 33}, "decoder_dim 33 must be a multiple of 32"),
    ],
)
def test_invalid_configs_are_rejected(settings, message):
    with pytest.raises(ValueError, match=message):
        CodecConfig(**settings)


def test_the_istft_head_equals_overlap_add_of_inverse_ffts():
    head = IstftHead(channels=8, n_fft=56, hop=14, n_steps=12).double()
    x = torch.randn(3, 8, 12, dtype=torch.float64)
    log_magnitude, phase = head.project(x.transpose(1, 2)).transpose(1, 2).chunk(2, 1)
    spectrum = torch.polar(log_magnitude.exp().clip(max=MAX_MAGNITUDE), phase)
    window = torch.hann_window(56, dtype=torch.float64)
    frames = torch.fft.irfft(spectrum, 56, dim=1) * window[:, None]  # [B, n_fft, T']
    size = (1, 56 + 14 * 11)
    fold = {"output_size": size, "kernel_size": (1, 56), "stride": (1, 14)}
    wave = F.fold(frames, **fold)[:, 0, 0]
    envelope = F.fold(window.square()[None, :, None].expand(1, -1, 12), **fold)[:, 0, 0]
    expected = (wave / envelope)[:, 21 : 21 + 168]
    assert torch.allclose(head(x)[:, 0], expected, atol=1e-6)


def test_folding_weight_norm_changes_the_number_of_parameters_only():
    encoder = SeanetEncoder(CodecConfig(latent_dim=16, n_filters=4)).eval()
    x, before = torch.randn(2, 1, 224), folded_parameters(encoder)
    expected = encoder(x)
    fold_weight_norm(encoder)
    assert torch.allclose(encoder(x), expected, atol=1e-6)
    assert sum(p.numel() for p in encoder.parameters()) == before


def test_the_first_update_after_kmeans_does_not_move_used_codewords():
    generator = torch.Generator().manual_seed(0)
    centres = torch.randn(8, 4, generator=generator) * 10
    latents = centres.repeat(50, 1)
    codebook = EmaCodebook(8, 4, decay=0.97, revive_below=0.05)
    codebook.init_kmeans(latents, generator)
    before = codebook.codewords.clone()
    codebook.update(latents, codebook.nearest(latents))
    assert torch.allclose(codebook.codewords, before, atol=1e-2)


def test_dead_codewords_restart_on_latents_and_stay_in_use():
    codebook = EmaCodebook(4, 2, decay=0.5, revive_below=0.05)
    codebook.codewords.copy_(torch.tensor([[0.0, 0.0], [9.0, 9.0], [-9.0, 9.0], [9.0, -9.0]]))
    latents = torch.randn(64, 2, generator=torch.Generator().manual_seed(0)) * 0.1
    for _ in range(8):
        codebook.update(latents, codebook.nearest(latents))
    assert (codebook.codewords.norm(dim=1) < 1).all()
    assert len(codebook.nearest(latents).unique()) == 4


def test_each_stage_quantizes_the_residual_of_the_stages_before():
    quantizer = ResidualVectorQuantizer(4, 16, (2, 1), decay=0.97, revive=0.05).eval()
    latent = torch.randn(3, 4, 8)
    quantizer.init_codebooks(latent.repeat(4, 1, 1), seed=0)
    total, codes, _ = quantizer(latent)
    assert [tuple(c.shape) for c in codes] == [(3, 4), (3, 8)]
    assert torch.allclose(quantizer.dequantize(codes), total, atol=1e-6)
    targets = quantizer.residual_targets(latent)
    for codebook, stage, code in zip(quantizer.codebooks, targets, codes):
        assert torch.equal(codebook.nearest(stage.reshape(-1, 4)).view_as(code), code)


@pytest.mark.parametrize("kind", ["dac", "mpd", "mrd"])
def test_discriminators_learn_to_tell_smooth_from_noisy_chunks(kind):
    torch.manual_seed(0)
    discriminator = Discriminator(kind, width=4)
    optimizer = torch.optim.Adam(discriminator.parameters(), 3e-3)
    smooth = torch.linspace(0, 1, 32)[None, :, None].expand(8, 32, 7)
    noisy = torch.randn(8, 32, 7)
    first = discriminator_loss(discriminator(smooth), discriminator(noisy)).item()
    for _ in range(15):
        loss = discriminator_loss(discriminator(smooth), discriminator(noisy))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert loss.item() < first
    assert feature_loss(discriminator(smooth), discriminator(noisy)) > 0
    assert feature_loss(discriminator(smooth), discriminator(smooth)) == 0
