"""Results of the NAC paper (arXiv 2606.21372), to compare with ours."""

from typing import NamedTuple


class Cost(NamedTuple):
    """A row of Table 3, on an RTX 4090."""

    params_m: float
    tokens: int
    vocabulary: int
    bits: int
    encode_ms: float
    decode_ms: float
    roundtrip_ms: float


class Ablation(NamedTuple):
    """A row of Table 1 (LIBERO-10): success rate of the policy [%] and MSE, with their spreads."""

    success: float
    success_spread: float
    mse: float
    mse_spread: float


TABLE_3 = {
    "bin": Cost(0.002, 224, 1024, 2240, 0.045, 0.039, 0.079),
    "oat": Cost(65.207, 12, 1024, 120, 0.931, 2.392, 3.347),
    "vqvla": Cost(65.556, 12, 1024, 120, 7.086, 4.045, 11.049),
    "fast": Cost(0.000, 36, 1024, 360, 0.170, 0.110, 0.290),
    "nac": Cost(63.006, 12, 1024, 120, 1.270, 2.183, 3.536),
}
TABLE_1 = {
    "loss": {
        "l1": Ablation(44.78, 2.48, 0.002, 0.005),
        "mse": Ablation(49.2, 1.54, 0.0008, 0.0007),
        "dct": Ablation(47.85, 1.18, 0.0007, 0.0008),
        "mel": Ablation(0.0, 0.11, 0.038, 0.026),
        "spectrogram": Ablation(48.3, 2.92, 0.0002, 0.001),
    },
    "discriminator": {
        "dac": Ablation(49.45, 2.02, 0.0005, 0.0018),
        "mpd": Ablation(46.28, 1.48, 0.0005, 0.0007),
        "mrd": Ablation(45.68, 1.72, 0.0004, 0.0006),
        "none": Ablation(0.0, 0.0, 0.35, 0.12),
    },
    "head": {
        "istft": Ablation(48.3, 2.92, 0.0002, 0.001),
        "linear": Ablation(42.1, 1.54, 0.0006, 0.001),
    },
}

# Table 6 (real arm): success rates of 10 trials [%], by task and method.
_METHODS = ("bin", "diffusion", "fast", "vqvla", "oat", "nac")
TABLE_6 = {
    task: dict(zip(_METHODS, rates))
    for task, rates in {
        "weighing": (50, 40, 80, 90, 40, 90),
        "grapes": (0, 30, 80, 30, 80, 100),
        "marker": (0, 30, 60, 30, 50, 50),
        "two_blocks": (0, 0, 0, 0, 0, 30),
        "three_blocks": (0, 0, 0, 0, 10, 0),
        "chess": (0, 0, 10, 0, 40, 10),
        "place_stone": (0, 0, 10, 50, 30, 40),
        "fold_towel": (0, 80, 80, 50, 70, 80),
    }.items()
}
