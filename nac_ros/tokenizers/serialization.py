"""How networks lie on disk: config.json beside model.safetensors, never a pickle.

Neither is trusted: `read_config` and `load_weights` check sizes, types and that every number is
finite, and `limit_size` keeps a config from asking for more memory than its weights fill.
"""

import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import fields
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn.modules import module as hooks

from nac_ros.core import config as configs
from nac_ros.core.errors import BundleError, ConfigError, NacError, show_text, show_value
from nac_ros.core.json_reader import read_json

CONFIG_FILE, WEIGHTS_FILE = "config.json", "model.safetensors"
FACTS = ("name", "preset", "config")  # of every config.json
MAX_CONFIG = 16 << 20  # bytes of a config.json; the pieces of a BPE stand in it
MAX_WEIGHTS = 2 << 30  # bytes of a file of weights
MAX_HEADER = 8 << 20  # bytes of its header, which names each tensor
MAX_SIZE = 1 << 20  # of each whole number of a network's config
MAX_ELEMENTS = 1 << 26  # values of a table or matrix that a config may ask for before it is loaded
SPARE = 8  # times what is stored: what is computed, or serves training alone, comes on top
SPARE_VALUES, SPARE_TENSORS = 1 << 22, 1 << 10


def save_weights(
    module: nn.Module,
    path: Path,
    half: bool,
    left_out: Callable[[str], bool] = lambda key: False,
) -> None:
    """State of `module` as safetensors; `half` rounds learned matrices to float16."""
    learned = {key for key, value in module.named_parameters() if value.ndim > 1}
    kept = {key: value for key, value in module.state_dict().items() if not left_out(key)}
    weights = {
        key: (value.half() if half and key in learned else value).contiguous()
        for key, value in kept.items()
    }
    save_file(weights, path)


def read_config(folder: Path, kind: str = "tokenizer") -> dict[str, Any]:
    """config.json of a saved tokenizer or policy; raises BundleError when it is none."""
    path = Path(folder) / CONFIG_FILE
    if not path.is_file():
        raise BundleError(
            f"no {kind} in {folder}: {CONFIG_FILE} is missing; make one: nac {kind} train"
        )
    _refuse_link(path)
    facts = read_json(path, BundleError, MAX_CONFIG)
    if not isinstance(facts, dict):
        raise BundleError(f"{path} holds no mapping; copy the {kind} again or train it anew")
    wanted = {*FACTS, "state"} if kind == "tokenizer" else {*FACTS}
    if missing := wanted - set(facts):
        raise BundleError(f"{path} lacks {', '.join(sorted(missing))}; copy the {kind} again")
    for key in ("name", "preset"):
        if not isinstance(facts[key], str):
            raise BundleError(f"{path}: {key} must be text, got {show_value(facts[key])}")
    for key in wanted & {"config", "state"}:
        if not isinstance(facts[key], dict):
            raise BundleError(f"{path}: {key} must be a mapping, got {show_value(facts[key])}")
    return facts


def load_weights(path: Path) -> dict[str, Tensor]:
    """Tensors of a safetensors file, every floating-point one finite; raises BundleError."""
    read_shapes(path)
    try:
        with safe_open(path, "pt") as file:
            names = list(file.keys())
            tensors = {name: file.get_tensor(name) for name in names}
    except Exception as error:  # the library raises its own, and torch's for dtypes
        raise BundleError(
            f"{path} cannot be read: {show_text(error)}; copy it again or export it anew"
        ) from error
    for name, tensor in tensors.items():
        if tensor.is_floating_point() and not bool(torch.isfinite(tensor).all()):
            raise BundleError(
                f"{path}: {show_text(name)} holds NaN or inf; train or export it anew"
            )
    return tensors


def read_shapes(path: Path) -> dict[str, tuple[int, ...]]:
    """Tensor -> shape of a safetensors file, from its header alone; raises BundleError."""
    _refuse_link(path)
    try:
        if not path.is_file():
            raise BundleError(f"{path} is missing; copy the whole folder again")
        size = path.stat().st_size
        with path.open("rb") as file:
            start = file.read(8)
        header = int.from_bytes(start, "little")
        if not 8 < size <= MAX_WEIGHTS or not 0 < header <= min(MAX_HEADER, size - 8):
            raise BundleError(
                f"{path} is no safetensors file: {size} bytes with a header of "
                f"{header if len(start) == 8 else 0} bytes, at most {MAX_WEIGHTS} and "
                f"{MAX_HEADER} are read; a pickle never is. Copy it again"
            )
        with safe_open(path, "pt") as file:
            names = list(file.keys())
            return {name: tuple(file.get_slice(name).get_shape()) for name in names}
    except NacError:
        raise
    except Exception as error:  # the library raises its own
        raise BundleError(
            f"{path} is no whole safetensors file: {show_text(error)}; copy it again"
        ) from error


@contextmanager
def limit_size(weights: Path) -> Iterator[None]:
    """Networks that are made inside may have SPARE times the values and tensors of a file.

    A config of a few bytes can ask for any size. Raises BundleError where it asks for more than
    the weights at hand could fill, before the memory is touched.
    """
    shapes, own = read_shapes(weights), threading.get_ident()
    values = SPARE_VALUES + SPARE * sum(torch.Size(shape).numel() for shape in shapes.values())
    left = [values, SPARE_TENSORS + SPARE * len(shapes)]

    def count(module: nn.Module, name: str, value: Tensor | None) -> None:
        if value is None or threading.get_ident() != own:
            return
        left[0], left[1] = left[0] - value.numel(), left[1] - 1
        if min(left) < 0:
            raise BundleError(
                f"{weights} does not fit its config, which asks for a network at least "
                f"{SPARE} times as large; copy both again"
            )

    handles = (
        hooks.register_module_parameter_registration_hook(count),
        hooks.register_module_buffer_registration_hook(count),
    )
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


@contextmanager
def refuse_misfit(folder: Path, kind: str) -> Iterator[None]:
    """Whatever goes wrong while a network is made of `folder` becomes a BundleError."""
    try:
        yield
    except BundleError:
        raise
    except NacError as error:
        raise BundleError(
            f"{folder} holds no {kind} that fits: {show_text(error, 400)}"
        ) from error
    except (ArithmeticError, AttributeError, LookupError, MemoryError) as error:
        what = f"{type(error).__name__} {show_text(error)}"
        raise BundleError(f"{folder} holds no {kind} that fits: {what}; copy it again") from error
    except (OSError, RuntimeError, TypeError, ValueError) as error:
        raise BundleError(
            f"{folder} holds no {kind} that fits: {show_text(error)}; copy it again"
        ) from error


def fill(module: nn.Module, path: Path, optional: Callable[[str], bool] = lambda key: False):
    """Loads the weights at `path` into `module`; raises BundleError where they do not fit.

    optional: keys of the module's state that the file may lack
    """
    own, saved = module.state_dict(), load_weights(path)
    wrong = [key for key in saved if key not in own]
    wrong += [key for key in own if key not in saved and not optional(key)]
    wrong += [key for key in saved if key in own and not _alike(own[key], saved[key])]
    if wrong:
        raise BundleError(
            f"{path} does not fit its config: {show_text(wrong[0])} is missing, unknown or of "
            "another shape or type; copy both again"
        )
    module.load_state_dict(saved, strict=False)


def check_sizes(config: Any) -> None:
    """Raises ConfigError where a whole number of a network's config is beyond MAX_SIZE."""
    for field in fields(config):
        value = getattr(config, field.name)
        for number in value if isinstance(value, tuple) else (value,):
            if isinstance(number, int) and abs(number) > MAX_SIZE:
                raise ConfigError(
                    f"{type(config).__name__}: {field.name} {number} is beyond {MAX_SIZE}; "
                    "give a smaller one"
                )
            if isinstance(number, float) and not abs(number) < float("inf"):
                raise ConfigError(
                    f"{type(config).__name__}: {field.name} is {number}; wanted finite"
                )


def check_elements(what: str, *shape: int) -> None:
    """Raises ConfigError for a table of more than MAX_ELEMENTS values."""
    if torch.Size(shape).numel() > MAX_ELEMENTS:
        sizes = " x ".join(map(str, shape))
        raise ConfigError(f"{what} of {sizes} values is more than {MAX_ELEMENTS}; make it smaller")


def build_config(cls: type, facts: Mapping[str, Any], folder: Path) -> Any:
    """The config of `read_config` as an object of `cls`; raises BundleError."""
    try:
        return configs.build(cls, facts["config"], "config")
    except NacError as error:
        raise BundleError(f"{folder / CONFIG_FILE}: {show_text(error, 400)}") from error


def _alike(own: Tensor, saved: Tensor) -> bool:
    """Same shape and kind of number; a wider float could overflow, a narrower one cannot."""
    if own.is_floating_point() and saved.is_floating_point():
        return own.shape == saved.shape and saved.dtype.itemsize <= own.dtype.itemsize
    return own.shape == saved.shape and own.dtype == saved.dtype


def _refuse_link(path: Path) -> None:
    if path.is_symlink():
        raise BundleError(
            f"{path} is a symbolic link, and only plain files are read; copy the folder with "
            "`cp -rL`"
        )
