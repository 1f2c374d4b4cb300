"""The file of golden vectors: its layout, tolerances and comparison, in numpy alone."""

from pathlib import Path
from typing import NamedTuple

import numpy as np

from nac_ros.core.errors import BundleError, show_text
from nac_ros.core.observation_spec import ObservationSpec
from nac_ros.core.safetensors_file import load_arrays

MAX_SAMPLES = 64
IMAGES = "images."  # prefix of the images of a camera
INPUTS = ("proprio", "task", "environment_state", "past_commands")


class Tolerance(NamedTuple):
    """Largest accepted difference of an output, and what to report beyond it."""

    value: float
    unit: str
    output: str
    cause: str


DECODING = Tolerance(1e-4, "rad or m", "decoding", "the ONNX file")
LIKELIHOOD = Tolerance(0.05, "nats", "the log-likelihood", "the policy's weights")
# Denoising in several steps amplifies rounding.
PREDICTION = Tolerance(2e-3, "rad or m", "the prediction", "the policy's weights")


def read_golden(path: Path, spec: ObservationSpec, has_tokens: bool) -> dict[str, np.ndarray]:
    """The golden arrays: inputs by the names of ObservationSpec.arrays and `task`, `actions`, and
    with tokens `tokens` and `log_likelihood`.

    Raises BundleError unless every array is present with its type and shape.
    """
    golden, any_size = load_arrays(path), -1
    size, steps = spec.image_size, spec.n_obs_steps
    n = len(golden["proprio"]) if "proprio" in golden and golden["proprio"].ndim else 0
    wanted: dict[str, tuple[type, tuple[int, ...]]] = {
        "proprio": (np.float32, (n, steps, spec.state_dim)),
        "task": (np.int64, (n,)),
        "actions": (np.float32, (n, any_size, spec.state_dim)),
    }
    if has_tokens:
        wanted["log_likelihood"], wanted["tokens"] = (np.float32, (n,)), (np.int64, (n, any_size))
    if spec.environment_state_dim:
        wanted["environment_state"] = np.float32, (n, steps, spec.environment_state_dim)
    if spec.n_past_commands:
        wanted["past_commands"] = np.float32, (n, spec.n_past_commands, spec.state_dim)
    for name in spec.cameras:
        wanted[f"{IMAGES}{name}"] = np.uint8, (n, steps, size, size, 3)
    for name, (dtype, shape) in wanted.items():
        found = golden.get(name)
        if found is None or found.dtype != dtype or not _fits(found.shape, shape):
            got = "nothing" if found is None else f"{found.dtype} of {found.shape}"
            raise BundleError(
                f"{path}: '{show_text(name, 80)}' must be {np.dtype(dtype)} of {shape} (-1: any), "
                f"got {show_text(got)}; export the bundle again"
            )
    known = bool(((golden["task"] >= 0) & (golden["task"] < len(spec.tasks))).all())
    if not 1 <= n <= MAX_SAMPLES or not known:
        raise BundleError(
            f"{path}: wanted 1 to {MAX_SAMPLES} samples of the {len(spec.tasks)} tasks, got "
            f"{n}; export the bundle again"
        )
    return {name: golden[name] for name in wanted}


def compare(
    outputs: dict[str, np.ndarray], golden: dict[str, np.ndarray], has_tokens: bool, path: Path
) -> None:
    """Raises BundleError if an output differs from that of the golden arrays."""
    for name, found in outputs.items():
        tolerance = LIKELIHOOD if name == "log_likelihood" else DECODING
        _compare(name, found, golden[name], tolerance if has_tokens else PREDICTION, path)


def _compare(
    name: str, found: np.ndarray, golden: np.ndarray, tolerance: Tolerance, path: Path
) -> None:
    if found.shape != golden.shape:
        raise BundleError(
            f"{path}: {name} of the golden inputs must be of {found.shape}, got "
            f"{golden.shape}; export the bundle again"
        )
    difference = float(np.abs(found - golden).max())
    if not difference <= tolerance.value:  # also if it is NaN
        raise BundleError(
            f"{path.parent}: {tolerance.output} of the golden inputs differs by "
            f"{difference:.2e} {tolerance.unit}, more than {tolerance.value}; "
            f"{tolerance.cause} and this version do not match"
        )


def _fits(shape: tuple[int, ...], wanted: tuple[int, ...]) -> bool:
    return len(shape) == len(wanted) and all(b in (a, -1) for a, b in zip(shape, wanted))
