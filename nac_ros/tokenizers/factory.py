"""Lists the tokenizers, makes a new one by name and loads a saved one."""

from pathlib import Path
from typing import Any

from nac_ros.core import config as configs
from nac_ros.core.errors import UnknownName
from nac_ros.tokenizers.base import TOKENIZERS, Tokenizer
from nac_ros.tokenizers.serialization import find_class, read_config


def list_tokenizers() -> list[str]:
    """Names that `make_tokenizer` accepts."""
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
    """The tokenizer saved in `folder`, or in the bundle `folder`; raises BundleError."""
    folder = tokenizer_folder(folder)
    cls = find_class(TOKENIZERS, read_config(folder, "tokenizer"))
    return cls.from_pretrained(folder)


def tokenizer_folder(folder: Path | str) -> Path:
    """`folder`/tokenizer if that exists, as in a bundle, else `folder` itself."""
    inside = Path(folder) / "tokenizer"
    return inside if inside.is_dir() else Path(folder)
