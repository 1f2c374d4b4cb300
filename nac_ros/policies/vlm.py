"""Vision-language-action policy: a local vision-language model that continues with action tokens.

The input is one sequence: the images of all cameras at the newest time step and the task's prompt,
laid out by the model's own processor; then projected vectors of the joint states, and where the
config has them of the environment state and the past commands; then the action tokens. Token i of
the action tokenizer is entry `vocabulary + i` of the model's vocabulary. The model is frozen. LoRA
adapters (arXiv 2106.09685), the embeddings and output weights of the appended tokens and the
projection are trained with hard cross entropy, as in OpenVLA (arXiv 2406.09246), and are all that
is saved.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from hashlib import sha256
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from nac_ros.core.config import number_field
from nac_ros.core.errors import ConfigError, show_text
from nac_ros.core.sampling import Sampling
from nac_ros.policies.base import POLICIES, Targets
from nac_ros.policies.local_models import (
    CONFIG_FILE,
    LOCAL,
    LOCAL_WEIGHTS,
    find_model_folder,
    import_transformers,
    quiet_transformers,
)
from nac_ros.policies.observation_encoder import Inputs, ObservationEncoder
from nac_ros.policies.sampling import mask_illegal
from nac_ros.policies.token_policy import NextTokenLogits, TokenPolicy, TokenPolicyConfig
from nac_ros.tokenizers.base import Tokenizer
from nac_ros.tokenizers.grammar import PAD
from nac_ros.tokenizers.serialization import check_elements, not_from_config

EVALUATION_BATCH = 16  # observations
LOGIT_OF_ILLEGAL = -1e9  # finite, so that padded positions give no NaN
# Attention of the language model in LLaVA, SmolVLM, Qwen-VL and relatives.
LANGUAGE_ATTENTION = r".*(language_model|text_model)\..*(q_proj|k_proj|v_proj|o_proj)"
PREFIX_ATTENTION = ("paligemma",)  # whose mask is not causal over the prompt
EXTRA = "vlm"  # of setup.py


@dataclass(frozen=True, kw_only=True)
class VlmConfig(TokenPolicyConfig):
    """The model and its adapters.

    model_folder: local folder of a `transformers` image-text-to-text model with its processor
    model_hash: SHA-256 of the model's config.json, which is computed when the policy is made
    dtype: of the model's frozen weights
    lora_rank, lora_alpha, lora_dropout: of the adapters; alpha / rank scales them
    lora_targets: regular expression of the adapted layers' names, or `all-linear`
    """

    model_folder: str = ""
    model_hash: str = ""
    dtype: Literal["float32", "bfloat16"] = "bfloat16"
    lora_rank: int = number_field(32, 1)
    lora_alpha: int = number_field(32, 1)
    lora_dropout: float = number_field(0.0, 0, 0.99)
    lora_targets: str = "all-linear"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.vision != "keypoints" or self.freeze_vision:
            raise ConfigError(
                "policy vlm sees with its own model; leave vision and freeze_vision unset"
            )


@POLICIES.register("vlm")
class VlmPolicy(TokenPolicy):
    """[images and prompt, projected states, action tokens] through a vision-language model."""

    name = "vlm"
    Config = VlmConfig
    required_folder = "model_folder"
    token_prefixes = ("action_embedding.", "action_head.")
    presets = {
        "paper": {},
        "small": {
            "lora_rank": 8,
            "lora_alpha": 16,
            "lora_targets": LANGUAGE_ATTENTION,
            "sampling": Sampling(top_k=1),
        },
    }
    # Those of OpenVLA's LoRA runs: rank 32 on all linear layers, batch 16, rate 5e-4.
    training_defaults = {
        "paper": {"learning_rate": 5e-4, "batch": 16, "steps": 50_000},
        "small": {"learning_rate": 5e-4, "batch": 16},
    }

    def __init__(self, config: VlmConfig, preset: str, tokenizer: Tokenizer):
        import_transformers("policy vlm", EXTRA)
        folder = find_model_folder(config.model_folder, "model_folder of policy vlm")
        config = replace(config, model_hash=_check_hash(folder, config.model_hash))
        super().__init__(config, preset, tokenizer)
        with not_from_config():
            self._processor, backbone = _load_model(folder, config)
        base = backbone.get_input_embeddings()
        self._vocabulary, dim = base.weight.shape
        size = self.grammar.vocab_size
        check_elements("the embedding of the appended tokens", size, dim)
        _add_adapters(backbone, config)
        self.observation_encoder = ObservationEncoder(
            config, dim, self.chunk_spec.action_dim, state_only=True
        )
        self.action_embedding = nn.Embedding(size, dim)
        self.action_head = nn.Linear(dim, size, bias=False)
        self._scale = float(base.weight.float().square().mean().sqrt())  # of an embedding
        with torch.no_grad():
            self.action_embedding.weight.mul_(self._scale)
        backbone.set_input_embeddings(AppendedEmbedding(base, self.action_embedding))
        self.backbone = backbone
        self._prompts = [self._lay_out(prompt) for prompt in config.tasks.values()]

    @staticmethod
    def is_stored_elsewhere(key: str) -> bool:
        """Also of the model's own weights, which stay in the model's folder."""
        return key.startswith("tokenizer.") or (key.startswith("backbone.") and not _is_lora(key))

    @property
    def params_m(self) -> float:
        """Millions of parameters with those of the model."""
        named = self.named_parameters()
        return sum(p.numel() for key, p in named if not key.startswith("tokenizer.")) / 1e6

    @property
    def _embedding(self) -> "AppendedEmbedding":
        return self.backbone.get_input_embeddings()

    def loss(self, inputs: Inputs, targets: Targets) -> dict[str, Tensor]:
        tokens = targets["tokens"]
        masked = self._logits_along(inputs, tokens).masked_fill(
            ~self.legal_along(tokens), LOGIT_OF_ILLEGAL
        )
        cross_entropy = F.cross_entropy(masked.flatten(0, 1), tokens.flatten(), ignore_index=PAD)
        return {"tokens": cross_entropy}

    def token_log_probs(self, inputs: Inputs, tokens: Tensor) -> Tensor:
        legal = self.legal_along(tokens) | (tokens < 0)[..., None]  # rows of padding are ignored
        return torch.log_softmax(mask_illegal(self._logits_along(inputs, tokens), legal), -1)

    def encode_images(self, inputs: Inputs) -> Tensor:
        """Pixels of the newest images, float32 `[B, cameras, S * S * 3]`: the model's processor
        takes them as they are."""
        if inputs.image_features is not None:
            return inputs.image_features.float()
        newest = [inputs.images[name][:, -1].flatten(1) for name in self.config.cameras]
        if not newest:
            return inputs.proprio.new_zeros(len(inputs.proprio), 0, 0)
        return torch.stack(newest, 1).float()

    def vision_parameters(self) -> list[nn.Parameter]:
        """None: the adapters of the model's vision part have the rate of the others."""
        return []

    @torch.no_grad()
    def next_token_logits(self, inputs: Inputs) -> NextTokenLogits:
        """Decoding with the model's key-value cache. Observations that are repeated one after the
        other, as those of several samples are, are read once."""
        first, index = _distinct_rows(inputs._replace(image_features=self.encode_images(inputs)))
        prompt, vectors = self._read(first)
        output = self._run(prompt, vectors, use_cache=True)
        cache, mask = output.cache, prompt["attention_mask"][index]
        cache.reorder_cache(index)
        shift = getattr(self.backbone, "rope_deltas", None)
        shift = None if shift is None else shift[index]
        start = self._action_logits(output.last_hidden_state[:, -1])[index]

        def logits(tokens: Tensor) -> Tensor:
            nonlocal mask
            if not tokens.shape[1]:
                return start
            mask = F.pad(mask, (0, 1), value=1)
            step = {"input_ids": self._ids(tokens[:, -1:]), "attention_mask": mask}
            if shift is not None:  # Qwen-VL: positions of time, height and width are equal in text
                position = mask.sum(1, keepdim=True) - 1 + shift
                step["position_ids"] = position.expand(3, -1, -1)
            hidden = self._run(step, None, use_cache=True, cache=cache).last_hidden_state
            return self._action_logits(hidden[:, -1])

        return logits

    def _logits_along(self, inputs: Inputs, tokens: Tensor) -> Tensor:
        """Logits `[B, L, V]` of each token given those before it."""
        prompt, vectors = self._read(inputs)
        start = prompt["input_ids"].shape[1] - 1
        sequence = _append(prompt, self._ids(tokens[:, :-1]))
        hidden = self._run(sequence, vectors, use_cache=False).last_hidden_state
        return self._action_logits(hidden[:, start:])

    @torch.no_grad()
    def evaluate(
        self, inputs: Inputs, targets: Targets, generator: torch.Generator
    ) -> dict[str, float]:
        """As in the base class, in parts, so that a large batch fits into the memory."""
        batch, total = len(inputs.proprio), dict[str, float]()
        for rows in torch.arange(batch, device=self.device).split(EVALUATION_BATCH):
            images = {name: frames[rows] for name, frames in inputs.images.items()}
            part = Inputs(images, *(None if x is None else x[rows] for x in inputs[1:]))
            values = {name: target[rows] for name, target in targets.items()}
            for name, value in super().evaluate(part, values, generator).items():
                total[name] = total.get(name, 0.0) + value * len(rows) / batch
        return total

    def _action_logits(self, hidden: Tensor) -> Tensor:
        """Hidden states `[..., dim]` -> logits of the appended tokens, float32 `[..., V]`."""
        return self.action_head(hidden.float()).float()

    def _ids(self, tokens: Tensor) -> Tensor:
        """Entries of the model's vocabulary; padding follows complete sequences alone."""
        return self._vocabulary + tokens.clamp(min=0)

    def _read(self, inputs: Inputs) -> tuple[dict[str, Tensor], Tensor]:
        """The prompt as arguments of the model, with a position for each projected vector, and
        these vectors `[B, n, dim]`."""
        prompt = self._process(inputs)
        encoder = self.observation_encoder
        no_images = inputs.proprio.new_zeros(len(inputs.proprio), 0, 0)
        vectors = encoder(self.normalized_inputs(inputs), no_images).float()
        vectors = self._scale * F.layer_norm(vectors, vectors.shape[-1:])
        first = self._vocabulary + self.grammar.vocab_size
        places = first + torch.arange(encoder.n_vectors, device=self.device)
        return _append(prompt, places.expand(len(vectors), -1)), vectors

    def _process(self, inputs: Inputs) -> dict[str, Tensor]:
        """Images and prompts as arguments of the model, padded on the left."""
        size, tokenizer = self.config.image_size, self._processor.tokenizer
        images = None
        if self.config.cameras:
            pixels = self.encode_images(inputs).to(torch.uint8).unflatten(2, (size, size, 3))
            images = [list(row) for row in pixels.cpu().numpy()]
        texts = [self._prompts[index] for index in inputs.task.tolist()]
        begins = str(tokenizer.bos_token or "\0")  # a chat template may have written it
        values = self._processor(
            text=texts,
            images=images,
            padding=True,
            return_tensors="pt",
            add_special_tokens=not texts[0].startswith(begins),
        )
        dtype = self._embedding.weight.dtype
        return {
            key: value.to(self.device, dtype if value.is_floating_point() else None)
            for key, value in values.items()
        }

    def _lay_out(self, prompt: str) -> str:
        """Text of the images and the prompt: by the processor's chat template, else the image
        tokens of all cameras and the prompt."""
        n = len(self.config.cameras)
        if getattr(self._processor, "chat_template", None):
            content = [{"type": "image"}] * n + [{"type": "text", "text": prompt}]
            messages = [{"role": "user", "content": content}]
            return str(self._processor.apply_chat_template(messages, add_generation_prompt=True))
        image = str(getattr(self._processor, "image_token", "<image>"))
        return f"{image * n}{prompt}\n"

    def _run(self, values: dict[str, Tensor], vectors: Tensor | None, **options: Any) -> Any:
        """One pass of the model without its head."""
        if "cache" not in options and hasattr(self.backbone, "rope_deltas"):
            self.backbone.rope_deltas = None  # of an earlier prompt
        with self._embedding.with_vectors(vectors):
            return self.backbone(**values, **options)


class AppendedEmbedding(nn.Module):
    """Token ids `[B, T]` -> `[B, T, dim]`: of a pretrained vocabulary and of appended tokens.

    Ids from the size of the vocabulary on are appended tokens; ids beyond them stand for the
    vectors of `with_vectors`, in their order.
    """

    def __init__(self, base: nn.Module, appended: nn.Embedding):
        super().__init__()
        self.base = base
        self._appended = (appended,)  # in a tuple, because it is registered by the policy
        self._vectors: Tensor | None = None

    @property
    def weight(self) -> Tensor:
        """Of the pretrained vocabulary, whose dtype models look at."""
        return self.base.weight

    @contextmanager
    def with_vectors(self, vectors: Tensor | None) -> Iterator[None]:
        """Inside, the vectors `[B, n, dim]` take the places with ids beyond the tokens'."""
        self._vectors = vectors
        try:
            yield
        finally:
            self._vectors = None

    def forward(self, ids: Tensor) -> Tensor:
        size, (appended,) = len(self.base.weight), self._appended
        known = self.base(ids.clamp(max=size - 1))
        added = appended((ids - size).clamp(0, appended.num_embeddings - 1)).to(known.dtype)
        embedded = torch.where((ids >= size)[..., None], added, known)
        if self._vectors is None:
            return embedded
        places = (ids >= size + appended.num_embeddings)[..., None]
        return embedded.masked_scatter(places, self._vectors.to(embedded.dtype))


def _check_hash(folder: Path, wanted: str) -> str:
    """SHA-256 of the model's config; raises ConfigError if it is not the one of the training."""
    found = sha256((folder / CONFIG_FILE).read_bytes()).hexdigest()
    if wanted not in ("", found):
        raise ConfigError(
            f"{folder / CONFIG_FILE} is not of the model that the policy was trained on; copy "
            "that one"
        )
    return found


def _load_model(folder: Path, config: VlmConfig) -> tuple[Any, Any]:
    """Processor and frozen model without its head; raises ConfigError."""
    from transformers import AutoModelForImageTextToText, AutoProcessor

    dtype = getattr(torch, config.dtype)
    try:
        processor = AutoProcessor.from_pretrained(folder, **LOCAL)
        with quiet_transformers():
            model = AutoModelForImageTextToText.from_pretrained(
                folder, dtype=dtype, **LOCAL_WEIGHTS
            )
    except (OSError, ValueError, KeyError, ImportError, RuntimeError) as error:
        raise ConfigError(
            f"{folder} holds no vision-language model with a processor: {show_text(error, 400)}"
        ) from error
    backbone = getattr(model, "model", None)
    kind = str(model.config.model_type)
    if backbone is None or model.config.is_encoder_decoder or kind in PREFIX_ATTENTION:
        raise ConfigError(
            f"{folder} holds a '{kind}', which does not continue its prompt token by token; "
            "choose a model with causal attention, for example of the families LLaVA or SmolVLM"
        )
    processor.tokenizer.padding_side = "left"
    return processor, backbone.requires_grad_(False)


def _add_adapters(backbone: nn.Module, config: VlmConfig) -> None:
    """LoRA layers in float32 inside the model; raises ConfigError."""
    try:
        from peft import LoraConfig, inject_adapter_in_model
    except ImportError as error:
        raise ConfigError(
            f"policy vlm needs the library peft; install it: pip install nac_ros[{EXTRA}]"
        ) from error
    lora = LoraConfig(
        r=config.lora_rank,
        lora_alpha=config.lora_alpha,
        lora_dropout=config.lora_dropout,
        target_modules=config.lora_targets,
    )
    try:
        inject_adapter_in_model(lora, backbone)
    except ValueError as error:
        raise ConfigError(
            f"lora_targets '{show_text(config.lora_targets)}' fits no layer of the model: "
            f"{show_text(error, 200)}"
        ) from error
    for key, parameter in backbone.named_parameters():
        parameter.requires_grad_(_is_lora(key))
        if _is_lora(key):
            parameter.data = parameter.data.float()


def _is_lora(key: str) -> bool:
    return ".lora_" in key


def _append(values: dict[str, Tensor], ids: Tensor) -> dict[str, Tensor]:
    """The arguments of the model with `ids` `[B, n]` after the prompt; entries by token, such as
    the type of each token, get zeros there."""
    size, extended = values["input_ids"].shape, dict(values)
    for key, value in values.items():
        if value.shape == size:
            extended[key] = F.pad(value, (0, ids.shape[1]))
    extended["input_ids"] = torch.cat([values["input_ids"], ids], 1)
    extended["attention_mask"][:, size[1] :] = 1
    return extended


def _distinct_rows(inputs: Inputs) -> tuple[Inputs, Tensor]:
    """Inputs without rows that equal the one before, and for each row its index among them."""
    parts = [x.flatten(1).float() for x in inputs[1:] if x is not None and x.ndim > 1]
    rows = torch.cat([*parts, inputs.task[:, None].float()], 1)  # [B, N]
    is_new = torch.ones(len(rows), dtype=torch.bool, device=rows.device)
    is_new[1:] = (rows[1:] != rows[:-1]).any(1)
    kept = (None if x is None else x[is_new] for x in inputs[1:])
    return Inputs({}, *kept), is_new.cumsum(0) - 1
