"""SEANet encoder for action waveforms (NAC section 3.2; EnCodec, arXiv 2210.13438)."""

from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.parametrizations import weight_norm

from nac_ros.codec.config import CodecConfig

KERNEL, RESIDUAL_KERNEL = 7, 3  # as in EnCodec


class PaddedConv1d(nn.Module):
    """Weight-normalized convolution, reflection-padded to an output of `length / stride` steps."""

    def __init__(self, inputs: int, outputs: int, kernel: int, stride: int = 1):
        super().__init__()
        self.conv = weight_norm(nn.Conv1d(inputs, outputs, kernel, stride))
        self._padding = kernel - stride

    def forward(self, x: Tensor) -> Tensor:
        right = self._padding // 2
        left = self._padding - right
        mode = "reflect" if x.shape[-1] > left else "replicate"  # reflection needs length > pad
        return self.conv(F.pad(x, (left, right), mode=mode))


class SeanetBlock(nn.Module):
    """Two convolutions through half the channels, plus a 1x1 shortcut, `[B, C, T]`."""

    def __init__(self, channels: int, kernel: int):
        super().__init__()
        hidden = channels // 2
        self.block = nn.Sequential(
            nn.ELU(),
            PaddedConv1d(channels, hidden, kernel),
            nn.ELU(),
            PaddedConv1d(hidden, channels, 1),
        )
        self.shortcut = PaddedConv1d(channels, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.shortcut(x) + self.block(x)


class SkipLstm(nn.Module):
    """Two-layer LSTM along time with a skip connection, `[B, C, T']` in and out."""

    def __init__(self, channels: int):
        super().__init__()
        self.lstm = nn.LSTM(channels, channels, num_layers=2, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        output, _ = self.lstm(x.transpose(1, 2))
        return x + output.transpose(1, 2)


class SeanetEncoder(nn.Module):
    """Waveform `[B, 1, L]` -> latent `[B, E, L / hop]`."""

    def __init__(self, config: CodecConfig):
        super().__init__()
        width = config.n_filters
        layers: list[nn.Module] = [PaddedConv1d(1, width, KERNEL)]
        for ratio in reversed(config.ratios):  # EnCodec: the smallest stride first
            layers += [SeanetBlock(width, RESIDUAL_KERNEL), nn.ELU()]
            layers += [PaddedConv1d(width, 2 * width, 2 * ratio, ratio)]
            width *= 2
        layers += [SkipLstm(width)] if config.lstm else []
        layers += [nn.ELU(), PaddedConv1d(width, config.latent_dim, KERNEL)]
        self.layers = nn.Sequential(*layers)

    def forward(self, waveform: Tensor) -> Tensor:
        return self.layers(waveform)


def folded_parameters(module: nn.Module) -> int:
    """Number of parameters after folding weight norm, so without its gains; no buffers."""
    names = dict(module.named_parameters())
    gains = [name for name in names if name.endswith("parametrizations.weight.original0")]
    return sum(p.numel() for p in names.values()) - sum(names[g].numel() for g in gains)


def fold_weight_norm(module: nn.Module) -> None:
    """Replaces weight norm by plain weights, for export and speed; ends training."""
    for child in module.modules():
        if nn.utils.parametrize.is_parametrized(child, "weight"):
            nn.utils.parametrize.remove_parametrizations(child, "weight")
