"""Tokenizers by name or from disk: which there are, a new one, a trained one."""

from pathlib import Path
from typing import Any

from nac_ros.core import config as configs
from nac_ros.core.errors import BundleError, UnknownName, show_text
from nac_ros.tokenizers.base import TOKENIZERS, Tokenizer
from nac_ros.tokenizers.serialization import read_config


def list_tokenizers() -> list[str]:
    """Names that `make_tokenizer` knows."""
    return TOKENIZERS.names()


def make_tokenizer(
    name: str, preset: str = "small", horizon: int = 32, action_dim: int = 7, **config: Any
) -> Tokenizer:
    """A new tokenizer for chunks `[horizon, action_dim]`; `config` overrides the preset."""
    cls = TOKENIZERS.get(name)
    if preset not in cls.presets:
        known = ", ".join(cls.presets)
        raise UnknownName(f"tokenizer {name} has no preset '{preset}'; known are: {known}")
    values = {**cls.presets[preset], **config, "horizon": horizon, "action_dim": action_dim}
    return cls(configs.build(cls.Config, values, f"tokenizer {name}"), preset).eval()


def load_tokenizer(folder: Path | str) -> Tokenizer:
    """The tokenizer saved in `folder`, or in `folder`/tokenizer of a bundle."""
    folder = tokenizer_folder(folder)
    try:
        cls = TOKENIZERS.get(read_config(folder)["name"])
    except UnknownName as error:
        raise BundleError(f"{folder} cannot be loaded: {show_text(error, 400)}") from error
    return cls.from_pretrained(folder)


def tokenizer_folder(folder: Path | str) -> Path:
    """`folder`/tokenizer where that exists, as in a bundle, else `folder` itself."""
    inside = Path(folder) / "tokenizer"
    return inside if inside.is_dir() else Path(folder)
