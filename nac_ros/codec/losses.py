"""Reconstruction losses of NAC's Table 1, and a loss on velocities and gripper transitions."""

from typing import Literal, get_args

import torch
from torch import Tensor, nn
from torch.nn import functional as F

Kind = Literal["mse", "l1", "dct", "spectrogram", "mel"]
KINDS: tuple[str, ...] = get_args(Kind)
N_FFTS = (64, 32, 16)  # resolutions of the spectral losses that fit the signal
N_MELS = 16
SAMPLE_RATE = 24_000.0  # [Hz] as in audio codecs; sets only the curvature of the mel scale
TRANSITION_STEPS = 2  # steps before and after a gripper transition that count as near it
TRANSITION_CHANGE = 0.05  # change in one step, of the normalized range of 2, that is a transition
MIN_MAGNITUDE = 1e-5  # before the logarithm


class ReconstructionLoss(nn.Module):
    """Decoded and real normalized chunks `[B, H, D]` -> scalar.

    weights: `[H]`, of the steps, for mse and l1; scale: `[D]`, factors on the dimensions
    mse, l1: of the actions
    dct: L1 of the orthonormal DCT-II along time (its MSE would equal `mse`)
    spectrogram: L1 of the short-time magnitudes of the flattened chunk at three resolutions
    mel: the same of log mel bands, as in audio codecs
    """

    def __init__(self, kind: Kind, weights: Tensor, scale: Tensor):
        super().__init__()
        self.kind = kind
        self.register_buffer("scale", scale, persistent=False)
        self.register_buffer("weights", weights, persistent=False)
        self.register_buffer("basis", dct_basis(len(weights)), persistent=False)
        n_samples = len(weights) * len(scale)
        sizes = [n for n in N_FFTS if n // 2 < n_samples] or [2]
        self.spectra = nn.ModuleList(Magnitudes(n, mel=kind == "mel") for n in sizes)

    def forward(self, decoded: Tensor, real: Tensor) -> Tensor:
        decoded, real = decoded * self.scale, real * self.scale
        if self.kind in ("mse", "l1"):
            error = (F.mse_loss if self.kind == "mse" else F.l1_loss)(
                decoded, real, reduction="none"
            )
            return (self.weights * error.mean((0, 2))).mean()
        if self.kind == "dct":
            return (self.basis @ (decoded - real)).abs().mean()  # [H, H] @ [B, H, D]
        distances = [F.l1_loss(spectrum(decoded), spectrum(real)) for spectrum in self.spectra]
        return torch.stack(distances).mean()


class ControlLoss(nn.Module):
    """Loss on the motion beyond positions: decoded and real normalized chunks -> scalar.

    velocity, acceleration: weights of the mean squared error of first and second differences
    transition: extra weight of the squared error of the columns `grippers` within
        TRANSITION_STEPS of a step in which they move by more than TRANSITION_CHANGE
    """

    def __init__(
        self, velocity: float, acceleration: float, transition: float, grippers: tuple[int, ...]
    ):
        super().__init__()
        self.weights, self.grippers = (velocity, acceleration, transition), list(grippers)

    def forward(self, decoded: Tensor, real: Tensor) -> Tensor:
        error = decoded - real
        parts = [error.diff(n=1, dim=1), error.diff(n=2, dim=1), self._at_transitions(error, real)]
        losses = [w * part.square().mean() for w, part in zip(self.weights, parts) if w]
        return torch.stack(losses).sum() if losses else error.new_zeros(())

    def _at_transitions(self, error: Tensor, real: Tensor) -> Tensor:
        columns = real[..., self.grippers].transpose(1, 2)  # [B, G, H]
        moving = F.pad((columns.diff(dim=-1).abs() > TRANSITION_CHANGE).float(), (1, 0))
        width = 2 * TRANSITION_STEPS + 1
        near = F.max_pool1d(moving, width, stride=1, padding=TRANSITION_STEPS)
        return error[..., self.grippers] * near.transpose(1, 2)


class Magnitudes(nn.Module):
    """Flattened chunk -> short-time magnitudes `[B, bins, frames]`, or their log mel bands."""

    def __init__(self, n_fft: int, mel: bool):
        super().__init__()
        self.n_fft, self.mel = n_fft, mel
        self.register_buffer("window", torch.hann_window(n_fft), persistent=False)
        bands = mel_bands(n_fft, min(N_MELS, n_fft // 2))
        self.register_buffer("bands", bands, persistent=False)

    def forward(self, chunks: Tensor) -> Tensor:
        """Chunks `[B, H, D]`."""
        wave, hop = chunks.flatten(1), max(self.n_fft // 4, 1)
        spectrum = torch.stft(wave, self.n_fft, hop, window=self.window, return_complex=True)
        power = spectrum.real.square() + spectrum.imag.square()
        magnitudes = (power + MIN_MAGNITUDE**2).sqrt()  # with a finite gradient at 0
        if not self.mel:
            return magnitudes
        return (self.bands @ magnitudes).clamp(min=MIN_MAGNITUDE).log()


def dct_basis(n: int) -> Tensor:
    """Matrix `[n, n]` of the orthonormal DCT-II, frequency by time."""
    steps = torch.arange(n, dtype=torch.float64)
    basis = torch.cos(torch.pi / n * (steps + 0.5) * steps[:, None]) * (2 / n) ** 0.5
    basis[0] /= 2**0.5
    return basis.float()


def mel_bands(n_fft: int, n_mels: int) -> Tensor:
    """Triangular filters `[n_mels, n_fft / 2 + 1]`, even on the mel scale (O'Shaughnessy 1987)."""
    highest = 2595 * torch.log10(torch.tensor(1 + SAMPLE_RATE / 2 / 700, device="cpu"))
    centres = 700 * (10 ** (torch.linspace(0, float(highest), n_mels + 2) / 2595) - 1)  # [Hz]
    bins = torch.linspace(0, SAMPLE_RATE / 2, n_fft // 2 + 1)
    rising = (bins - centres[:-2, None]) / (centres[1:-1] - centres[:-2])[:, None]
    falling = (centres[2:, None] - bins) / (centres[2:] - centres[1:-1])[:, None]
    return torch.minimum(rising, falling).clamp(min=0)
