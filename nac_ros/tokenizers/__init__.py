"""Public interface to all tokenizers: list, make, load and wrap them."""

from nac_ros.tokenizers.base import Tokenizer
from nac_ros.tokenizers.factory import list_tokenizers, load_tokenizer, make_tokenizer
from nac_ros.tokenizers.processor import ActionProcessor

__all__ = ["ActionProcessor", "Tokenizer", "list_tokenizers", "load_tokenizer", "make_tokenizer"]
