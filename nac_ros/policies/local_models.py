"""Pretrained models in local folders of the `transformers` library; nothing is downloaded."""

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

import torch

from nac_ros.core.errors import ConfigError, show_text, show_value
from nac_ros.core.json_reader import read_json
from nac_ros.tokenizers.serialization import limited_size

MODELS_VARIABLE = "NAC_MODELS"  # environment variable: folder with copies of such folders
CONFIG_FILE = "config.json"
MAX_NUMBER = 1 << 24  # in a model's config; the base of a rotary embedding may be 1e7
MAX_TENSORS = 10_000  # of a vision or text model
LOCAL = {"local_files_only": True, "trust_remote_code": False}  # arguments of from_pretrained
LOCAL_WEIGHTS = {**LOCAL, "use_safetensors": True}
# Entries of a model's config that name code or other models, which could be downloaded.
NAMES_OTHERS = (
    "attn_implementation",
    "auto_map",
    "backbone",
    "quantization_config",
    "use_pretrained_backbone",
    "use_timm_backbone",
)


def import_transformers(user: str, extra: str) -> ModuleType:
    """The library; raises ConfigError that names the `extra` of this package.

    user: what needs it, for the error
    """
    try:
        import transformers
    except ImportError as error:
        raise ConfigError(
            f"{user} needs the library transformers; install it: pip install nac_ros[{extra}]"
        ) from error
    transformers.utils.logging.disable_progress_bar()
    return transformers


def find_model_folder(folder: str, option: str) -> Path:
    """A folder of a saved model: the one given, or the one of that name in $NAC_MODELS.

    option: field of the config that named it. Raises ConfigError where neither exists.
    """
    if (found := locate_model_folder(folder)) is not None:
        return found
    looked = f"it is not at '{folder}'" if folder else "no folder was given"
    raise ConfigError(
        f"{option} must name a local folder with a saved model and its {CONFIG_FILE}; "
        f"{show_text(looked, 400)}. Copy the model there, or name a folder that holds it in the "
        f"environment variable {MODELS_VARIABLE}"
    )


def locate_model_folder(folder: str) -> Path | None:
    """As `find_model_folder`, None where neither folder exists."""
    places = [Path(folder)] if folder else []
    if folder and (models := os.environ.get(MODELS_VARIABLE)):
        places.append(Path(models) / Path(folder).name)
    return next((path for path in places if (path / CONFIG_FILE).is_file()), None)


def read_model_file(path: Path) -> dict[str, Any]:
    """A JSON file of a model folder as a mapping; raises ConfigError."""
    content = read_json(path, ConfigError)
    if not isinstance(content, dict):
        raise ConfigError(f"{path} holds no mapping; copy the model again")
    return content


@contextmanager
def quiet_transformers() -> Iterator[None]:
    """Inside, the library logs errors alone: its list of weights that were not in a folder, which
    the caller reports, is a warning."""
    from transformers.utils import logging

    verbosity = logging.get_verbosity()
    logging.set_verbosity_error()
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)


def load_part(folder: Path, part: str) -> tuple[Any, list[str]]:
    """The model of a folder in float32, and the names of weights that the folder lacks.

    part: `vision_config` or `text_config`, which of an image-text model such as CLIP is wanted.
    Raises ConfigError.
    """
    from transformers import AutoConfig

    _check_values(read_model_file(folder / CONFIG_FILE))
    stored = sum(path.stat().st_size for path in folder.glob("*.safetensors"))  # > the values
    try:
        config = AutoConfig.from_pretrained(folder, **LOCAL)
        config = getattr(config, part, config)
        architecture_config(to_plain_config(config))
        # no memory: only the class is wanted
        with torch.device("meta"), limited_size(folder, stored, MAX_TENSORS):
            cls = type(build_model(config))
        options = {"config": config, "dtype": torch.float32, "output_loading_info": True}
        with quiet_transformers():
            model, report = cls.from_pretrained(folder, **options, **LOCAL_WEIGHTS)
    except (OSError, ValueError, KeyError, RuntimeError) as error:
        raise ConfigError(
            f"{folder} holds no model that can be loaded: {show_text(error, 300)}; copy it again"
        ) from error
    return model.eval(), sorted(report["missing_keys"])


def architecture_config(values: dict[str, Any]) -> Any:
    """`transformers` config of plain values, which are not trusted.

    Raises ConfigError for an unknown architecture, for entries that could load other code or
    weights, and for sizes that no model has.
    """
    from huggingface_hub.errors import StrictDataclassError
    from transformers import AutoConfig

    _check_values(values)
    given = {key: value for key, value in values.items() if not key.startswith("_")}
    kind = str(given.pop("model_type", ""))
    try:
        return AutoConfig.for_model(kind, **given)
    except (ValueError, TypeError, KeyError, StrictDataclassError) as error:
        raise ConfigError(
            f"the installed transformers cannot make a model '{show_text(kind, 60)}': "
            f"{show_text(error, 200)}; install the version that the model was saved with"
        ) from error


def build_model(config: Any) -> Any:
    """The model of a `transformers` config, with random weights; raises ConfigError."""
    from transformers import AutoModel

    try:
        return AutoModel.from_config(config, trust_remote_code=False)
    except (ImportError, ValueError) as error:
        raise ConfigError(
            f"a model '{show_text(config.model_type, 60)}' cannot be made: {show_text(error, 200)}"
        ) from error


def to_plain_config(config: Any) -> dict[str, Any]:
    """A `transformers` config as plain values that differ from the defaults of its type."""
    plain: dict[str, Any] = json.loads(config.to_json_string(use_diff=True))
    dropped = ("architectures", "dtype", "id2label", "label2id", "transformers_version")
    return {k: v for k, v in plain.items() if k not in dropped and not k.startswith("_")}


def _check_values(values: dict[str, Any]) -> None:
    """Raises ConfigError where a config or one inside of it names code or another model, or has a
    number beyond MAX_NUMBER, for which the library could fill the memory."""
    for name, value in values.items():
        if name in NAMES_OTHERS and value:
            raise ConfigError(
                f"the model's config sets {name}, which names code or another model; choose a "
                "model that is complete in its folder"
            )
        for number in value if isinstance(value, list) else [value]:
            if isinstance(number, int | float) and not abs(number) <= MAX_NUMBER:
                raise ConfigError(
                    f"the model's config sets {name} to {show_value(value)}, beyond {MAX_NUMBER}"
                )
        if isinstance(value, dict):
            _check_values(value)
