"""Public interface to all tokenizers: list, make, load and wrap them.

The names are imported when they are first used, so that `grammar` can be imported without torch.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from nac_ros.tokenizers.base import Tokenizer
    from nac_ros.tokenizers.factory import list_tokenizers, load_tokenizer, make_tokenizer
    from nac_ros.tokenizers.processor import ActionProcessor

__all__ = ["ActionProcessor", "Tokenizer", "list_tokenizers", "load_tokenizer", "make_tokenizer"]

_MODULES = {"ActionProcessor": "processor", "Tokenizer": "base"}  # the others are in `factory`


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__} has no attribute {name}")
    module = importlib.import_module(f"{__name__}.{_MODULES.get(name, 'factory')}")
    return getattr(module, name)
