"""How networks lie on disk: config.json beside model.safetensors, never a pickle."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from safetensors.torch import save_file
from torch import nn

from nac_ros.errors import BundleError

CONFIG_FILE, WEIGHTS_FILE = "config.json", "model.safetensors"


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


def read_facts(folder: Path) -> dict[str, Any]:
    """config.json of a saved tokenizer; raises BundleError when it is none."""
    path = Path(folder) / CONFIG_FILE
    try:
        facts = json.loads(path.read_text())
    except FileNotFoundError as error:
        raise BundleError(
            f"no tokenizer in {folder}: {CONFIG_FILE} is missing; make one: nac tokenizer train"
        ) from error
    except json.JSONDecodeError as error:
        raise BundleError(f"{path} is not JSON: {error}") from error
    missing = {"name", "preset", "config", "state"} - set(facts)
    if missing:
        raise BundleError(f"{path} lacks {', '.join(sorted(missing))}")
    return facts
