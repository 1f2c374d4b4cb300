"""Saving and loading tokenizers and policies: config.json next to model.safetensors, no pickle.

Neither file is trusted. Sizes, types and finiteness are checked on reading, and a config cannot
ask for much more memory than its weights fill.
"""

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import fields
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn.modules import module as hooks

from nac_ros.core import config as configs
from nac_ros.core.errors import (
    BundleError,
    ConfigError,
    NacError,
    UnknownName,
    show_text,
    show_value,
)
from nac_ros.core.json_reader import read_json
from nac_ros.core.registry import Registry
from nac_ros.core.safetensors_file import read_shapes, reject_link

CONFIG_FILE, WEIGHTS_FILE = "config.json", "model.safetensors"
FORMAT = 3  # of both files; goes up with the name of a field or tensor
MAX_CONFIG = 16 << 20  # bytes of a config.json, which holds the vocabulary of a BPE
MAX_SIZE = 1 << 20  # of each integer in a network's config
MAX_ELEMENTS = 1 << 26  # values of a table or matrix that a config may ask for before loading
# A network may have SIZE_FACTOR times the values and tensors of its weight file, plus some:
# tables that are computed or serve training alone are not saved.
SIZE_FACTOR, SPARE_VALUES, SPARE_TENSORS = 8, 1 << 22, 1 << 10

M = TypeVar("M", bound=nn.Module)
_LOADING = threading.local()  # `counts`: see `not_from_config`


class SavedModel(NamedTuple):
    """Content of a config.json: registry name, preset, config and state that is no tensor."""

    folder: Path
    name: str
    preset: str
    config: dict[str, Any]
    state: dict[str, Any]


def save_model(
    module: nn.Module,
    folder: Path | str,
    half: bool,
    state: dict[str, Any] | None = None,
    training_only: Callable[[str], bool] = lambda key: False,
) -> None:
    """Writes config.json and model.safetensors of a module with name, preset and config.

    half: round the learned matrices to float16
    state: plain values that belong to the module beyond its tensors
    training_only: keys of the module's state that are not saved
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    content = {
        "format": FORMAT,
        "name": module.name,
        "preset": module.preset,
        "config": configs.to_plain(module.config),
        "state": state or {},
    }
    (folder / CONFIG_FILE).write_text(json.dumps(content, indent=1) + "\n")
    matrices = {key for key, value in module.named_parameters() if value.ndim > 1}
    weights = {
        key: (value.half() if half and key in matrices else value).contiguous()
        for key, value in module.state_dict().items()
        if not training_only(key)
    }
    save_file(weights, folder / WEIGHTS_FILE)


def read_config(folder: Path | str, kind: str) -> SavedModel:
    """config.json of a saved `kind`, tokenizer or policy; raises BundleError."""
    folder = Path(folder)
    path = folder / CONFIG_FILE
    if not path.is_file():
        raise BundleError(
            f"no {kind} in {folder}: {CONFIG_FILE} is missing; make one: nac {kind} train"
        )
    reject_link(path)
    content = read_json(path, BundleError, MAX_CONFIG)
    if not isinstance(content, dict):
        raise BundleError(f"{path} holds no mapping; copy the {kind} again or train it again")
    types = {"name": str, "preset": str, "config": dict}
    if missing := types.keys() - content:
        raise BundleError(f"{path} lacks {', '.join(sorted(missing))}; copy the {kind} again")
    if (version := content.get("format")) != FORMAT:
        raise BundleError(
            f"{path} has format {show_text(version, 40)}, this version reads {FORMAT}; train the "
            f"{kind} again and export its bundle again"
        )
    types["state"] = dict
    for key, wanted in types.items():
        if not isinstance(value := content.get(key), wanted):
            word = "text" if wanted is str else "a mapping"
            raise BundleError(f"{path}: {key} must be {word}, got {show_value(value)}")
    return SavedModel(folder, *(content[key] for key in types))


def find_class(registry: Registry[Any], saved: SavedModel) -> type[Any]:
    """The registered class of a saved model; raises BundleError for an unknown name."""
    try:
        return registry.get(saved.name)
    except UnknownName as error:
        raise BundleError(f"{saved.folder} cannot be loaded: {show_text(error, 400)}") from error


def load_model(
    saved: SavedModel,
    kind: str,
    config_class: type,
    make: Callable[[Any], M],
    training_only: Callable[[str], bool] = lambda key: False,
) -> M:
    """The module that `make` builds from its config, with its weights; raises BundleError.

    training_only: keys of the module's state that the weight file may lack
    """
    path = saved.folder / WEIGHTS_FILE
    try:
        config = configs.build(config_class, saved.config, "config")
    except NacError as error:
        raise BundleError(f"{saved.folder / CONFIG_FILE}: {show_text(error, 400)}") from error
    with _as_bundle_errors(saved.folder, kind):
        shapes = read_shapes(path)
        stored = sum(torch.Size(shape).numel() for shape in shapes.values())
        with limited_size(path, stored, len(shapes)):
            module = make(config)
        _load_state(module, path, training_only)
    return module


def load_weights(path: Path) -> dict[str, Tensor]:
    """Tensors of a safetensors file, all floating-point ones finite; raises BundleError."""
    read_shapes(path)
    try:
        with safe_open(path, "pt") as file:
            tensors = {name: file.get_tensor(name) for name in list(file.keys())}
    except Exception as error:  # safetensors and torch raise types of their own
        raise BundleError(
            f"{path} cannot be read: {show_text(error)}; copy it again or export it again"
        ) from error
    for name, tensor in tensors.items():
        if tensor.is_floating_point() and not bool(torch.isfinite(tensor).all()):
            raise BundleError(
                f"{path}: {show_text(name)} holds NaN or inf; train or export it again"
            )
    return tensors


def check_sizes(config: Any) -> None:
    """Raises ConfigError for an integer beyond MAX_SIZE or a float that is not finite."""
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
                    f"{type(config).__name__}: {field.name} must be finite, got {number}"
                )


def check_elements(what: str, *shape: int) -> None:
    """Raises ConfigError for a table of more than MAX_ELEMENTS values."""
    if torch.Size(shape).numel() > MAX_ELEMENTS:
        sizes = " x ".join(map(str, shape))
        raise ConfigError(f"{what} of {sizes} values is more than {MAX_ELEMENTS}; make it smaller")


@contextmanager
def not_from_config() -> Iterator[None]:
    """Networks built inside come from a folder of the user's, and a config that is being loaded
    cannot choose their size, so they do not count as parts of its network."""
    _LOADING.counts = False
    try:
        yield
    finally:
        _LOADING.counts = True


@contextmanager
def limited_size(path: Path, values: int, tensors: int) -> Iterator[None]:
    """Bounds the network built inside by what its weight file at `path` holds.

    A config of a few bytes can ask for a network of any size. Each parameter and buffer is counted
    when a module registers it; BundleError is raised at the first one too many.
    """
    own = threading.get_ident()
    left = [SPARE_VALUES + SIZE_FACTOR * values, SPARE_TENSORS + SIZE_FACTOR * tensors]

    def count(module: nn.Module, name: str, value: Tensor | None) -> None:
        if value is None or threading.get_ident() != own or not getattr(_LOADING, "counts", True):
            return
        left[0], left[1] = left[0] - value.numel(), left[1] - 1
        if min(left) < 0:
            raise BundleError(
                f"{path} does not fit its config, which asks for a network at least "
                f"{SIZE_FACTOR} times as large; copy both again"
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


# What building a network raises if its config or weights are damaged or do not fit.
UNUSABLE = (
    ArithmeticError,
    AttributeError,
    LookupError,
    MemoryError,
    OSError,
    RuntimeError,
    TypeError,
    ValueError,
)


@contextmanager
def _as_bundle_errors(folder: Path, kind: str) -> Iterator[None]:
    """Turns exceptions that building a network from `folder` may raise into BundleError."""
    try:
        yield
    except BundleError:
        raise
    except NacError as error:
        raise BundleError(f"{folder} holds no valid {kind}: {show_text(error, 400)}") from error
    except UNUSABLE as error:
        cause = f"{type(error).__name__}: {show_text(error)}"
        raise BundleError(f"{folder} holds no valid {kind}: {cause}; copy it again") from error


def _load_state(module: nn.Module, path: Path, optional: Callable[[str], bool]) -> None:
    """Copies the tensors at `path` into `module`; raises BundleError unless they match."""
    own, saved = module.state_dict(), load_weights(path)
    wrong = [key for key in saved if key not in own]
    wrong += [key for key in own if key not in saved and not optional(key)]
    wrong += [key for key in saved if key in own and not _compatible(own[key], saved[key])]
    if wrong:
        raise BundleError(
            f"{path} does not fit its config: {show_text(wrong[0])} is missing, unknown or of "
            "another shape or type; copy both again"
        )
    module.load_state_dict(saved, strict=False)


def _compatible(own: Tensor, saved: Tensor) -> bool:
    """Same shape and type; a narrower float is accepted, a wider one could overflow."""
    if own.is_floating_point() and saved.is_floating_point():
        return own.shape == saved.shape and saved.dtype.itemsize <= own.dtype.itemsize
    return own.shape == saved.shape and own.dtype == saved.dtype
