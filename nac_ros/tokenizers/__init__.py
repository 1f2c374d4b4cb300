"""The public door to all tokenizers: list them, make a new one, load or wrap a trained one."""

from nac_ros.tokenizers.base import Tokenizer
from nac_ros.tokenizers.making import list_tokenizers, load_tokenizer, make_tokenizer
from nac_ros.tokenizers.processor import ActionProcessor

__all__ = ["ActionProcessor", "Tokenizer", "list_tokenizers", "load_tokenizer", "make_tokenizer"]
