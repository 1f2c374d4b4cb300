"""Task prompts as embeddings of a local text model, so that a paraphrase names its task.

The embedding of a text is the mean of the model's last hidden states, or its first one where the
folder says so in `1_Pooling/config.json`, as sentence-transformers writes it; of unit length.
"""

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from nac_ros.core.errors import ConfigError, UnknownName, show_text
from nac_ros.core.observation_spec import list_tasks
from nac_ros.policies.local_models import (
    CONFIG_FILE,
    find_model_folder,
    import_transformers,
    load_part,
    locate_model_folder,
    read_model_file,
)

TEXT_ENCODER_FOLDER = "text_encoder"  # in the folder of a policy
TOKENIZER, WEIGHTS, POOLING = "tokenizer.json", "model.safetensors", "1_Pooling/config.json"
FILES = (CONFIG_FILE, TOKENIZER, WEIGHTS)  # of a text model
MAX_COPIED = 20_000_000  # bytes of each file of a model that is copied into the policy's folder
MAX_TOKENS = 512  # of a prompt
SAME_PROMPT = 0.99  # cosine similarity of one prompt's embeddings on two machines
EXTRA = "pretrained"  # of setup.py


class TextEncoder:
    """Texts -> embeddings of unit length, float32 `[N, dim]` on the CPU; zero without a token.

    folder: with config.json, tokenizer.json and model.safetensors. Raises ConfigError.
    """

    def __init__(self, folder: str):
        import_transformers("text_folder", EXTRA)
        self.folder = find_model_folder(folder, "text_folder")
        for name in FILES:
            if not (self.folder / name).is_file():
                raise ConfigError(f"{self.folder / name} is missing; a text model needs it")
        self._tokenizer = _load_tokenizer(self.folder / TOKENIZER)
        self._model = _load_model(self.folder)
        self._takes_first = _takes_first_token(self.folder / POOLING)
        self.dim = int(self._model.config.hidden_size)

    @torch.no_grad()
    def __call__(self, texts: Sequence[str]) -> Tensor:
        encoded = self._tokenizer.encode_batch(list(texts))
        ids = torch.tensor([row.ids for row in encoded], dtype=torch.int64)
        if not ids.numel():
            return torch.zeros(len(texts), self.dim)
        mask = torch.tensor([row.attention_mask for row in encoded])  # [N, T]
        hidden = self._model(input_ids=ids, attention_mask=mask).last_hidden_state.float()
        if self._takes_first:
            pooled = hidden[:, 0]
        else:
            weights = mask[..., None].float()
            pooled = (hidden * weights).sum(1) / weights.sum(1).clamp(min=1)
        return torch.nn.functional.normalize(pooled, dim=-1)


def copy_text_encoder(folder: str, target: Path) -> bool:
    """Copies the model's files, unless it is absent or one file is larger than MAX_COPIED; returns
    whether `target` has them."""
    source = locate_model_folder(folder)
    if source is None:
        return False
    if source.resolve() == target.resolve():
        return True
    names = [name for name in (*FILES, POOLING) if (source / name).is_file()]
    if any((source / name).stat().st_size > MAX_COPIED for name in names):
        return False
    for name in names:
        (target / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source / name, target / name)
    return True


def nearest_task(
    text: str, embedding: Tensor, tasks: dict[str, str], prompts: Tensor, low: float, margin: float
) -> int:
    """Index of the task whose prompt means the same as `text`.

    embedding, prompts: of the text `[E]` and of the tasks' prompts `[N, E]`, of unit length
    low: smallest accepted cosine similarity
    margin: smallest accepted difference to the similarity of the second task

    Raises UnknownName that names the nearest prompt and its similarity.
    """
    similarities = prompts.float() @ embedding.to(prompts)
    order = similarities.argsort(descending=True).tolist()
    names, texts = list(tasks), list(tasks.values())
    best = float(similarities[order[0]])
    nearest = f"the nearest prompt is '{texts[order[0]]}' with a similarity of {best:.2f}"
    if best < low:
        problem = f"{nearest}, at least {low:g} is needed"
        raise UnknownName(f"unknown task '{show_text(text, 200)}': {problem}; {list_tasks(tasks)}")
    second = float(similarities[order[1]]) if len(order) > 1 else -1.0
    if best - second < margin:
        problem = f"{nearest}, but '{names[order[1]]}' is as near with {second:.2f}"
        raise UnknownName(
            f"ambiguous task '{show_text(text, 200)}': {problem}; {list_tasks(tasks)}"
        )
    return int(order[0])


def check_same_model(found: Tensor, wanted: Tensor, folder: Path) -> None:
    """Raises ConfigError unless both embeddings `[N, E]` of the trained prompts are those of one
    text model."""
    if found.shape != wanted.shape or float((found * wanted.cpu()).sum(1).min()) < SAME_PROMPT:
        raise ConfigError(
            f"{folder} is not the text model that the policy was trained with; copy that one"
        )


def _load_tokenizer(path: Path) -> Any:
    from tokenizers import Tokenizer

    try:
        tokenizer = Tokenizer.from_file(str(path))
    except Exception as error:  # the library raises no narrower type
        raise ConfigError(f"{path} is no tokenizer: {show_text(error)}; copy it again") from error
    tokenizer.enable_padding()
    tokenizer.enable_truncation(MAX_TOKENS)
    return tokenizer


def _load_model(folder: Path) -> Any:
    """The text encoder of a folder, also of an image-text or an encoder-decoder model."""
    model, lacking = load_part(folder, "text_config")
    if missing := [key for key in lacking if "pooler" not in key]:
        raise ConfigError(f"{folder} lacks the weight {missing[0]}; copy the model again")
    if model.config.is_encoder_decoder:
        model = model.get_encoder()
    return model.requires_grad_(False)


def _takes_first_token(path: Path) -> bool:
    return path.is_file() and bool(read_model_file(path).get("pooling_mode_cls_token"))
