"""Folders of tiny vision-language models with random weights, saved as real ones are."""

from pathlib import Path

import torch

SIZE, PATCH = 16, 8  # pixels of the model's images
WORDS = ["place", "the", "marker", "in", "bin", "turn", "on", "weighing", "machine", "."]
WORDS += ["user", "assistant", ":"]
SPECIAL = ["<pad>", "<s>", "</s>", "<unk>", "<image>", "<end_of_utterance>"]
SPECIAL += ["<fake_token_around_image>", "<global-img>", "<|image_pad|>", "<|video_pad|>"]
CHAT_TEMPLATE = (
    "{% for message in messages %}User :{% for part in message['content'] %}"
    "{% if part['type'] == 'image' %} <image>{% else %} {{ part['text'] }}{% endif %}"
    "{% endfor %}{% endfor %}{% if add_generation_prompt %} Assistant :{% endif %}"
)
TEXT = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": len(SPECIAL) + len(WORDS),
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
VISION = {
    "hidden_size": 24,
    "intermediate_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "image_size": SIZE,
    "patch_size": PATCH,
}


def save_tiny_vlm(folder: Path, kind: str = "llava", seed: int = 0) -> Path:
    """Writes a `llava` (CLIP and Llama; its processor has no chat template), an `idefics3` (as
    SmolVLM; with one) or a `qwen2_vl`, whose processor `qwen_processor` makes."""
    torch.manual_seed(seed)
    make = {"llava": _llava, "idefics3": _idefics3, "qwen2_vl": _qwen2_vl}[kind]
    model, processor = make(_tokenizer())
    model.save_pretrained(folder)
    if kind != "qwen2_vl":
        processor.save_pretrained(folder)
    return folder


def qwen_processor():
    """Processor of Qwen2-VL without its video part, which needs torchvision."""
    import transformers
    from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import (
        Qwen2VLImageProcessorPil,
    )
    from transformers.processing_utils import ProcessorMixin

    class ImageProcessor(transformers.Qwen2VLProcessor):
        def __init__(self, image_processor=None, tokenizer=None, chat_template=None):
            self.image_token, self.video_token = SPECIAL[-2:]
            self.image_token_id, self.video_token_id = map(SPECIAL.index, SPECIAL[-2:])
            ProcessorMixin.__init__(self, image_processor, tokenizer, chat_template=chat_template)

    pixels = (2 * SIZE) ** 2
    images = Qwen2VLImageProcessorPil(patch_size=PATCH, min_pixels=pixels, max_pixels=pixels)
    # consecutive images are told apart by a token between them
    template = CHAT_TEMPLATE.replace("<image>", "<|image_pad|> .")
    return ImageProcessor(images, _tokenizer(), chat_template=template)


def _tokenizer():
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    vocabulary = {word: index for index, word in enumerate([*SPECIAL, *WORDS])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    names = {"pad_token": "<pad>", "bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        additional_special_tokens=SPECIAL[4:],
        model_input_names=["input_ids", "attention_mask"],
        **names,
    )


def _llava(tokenizer):
    import transformers
    from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

    config = transformers.LlavaConfig(
        text_config=transformers.LlamaConfig(**TEXT),
        vision_config=transformers.CLIPVisionConfig(**VISION),
        image_token_index=SPECIAL.index("<image>"),
        vision_feature_layer=-1,
        tie_word_embeddings=False,
    )
    sizes = {"size": {"shortest_edge": SIZE}, "crop_size": {"height": SIZE, "width": SIZE}}
    processor = transformers.LlavaProcessor(
        CLIPImageProcessorPil(**sizes),
        tokenizer,
        patch_size=PATCH,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
    )
    return transformers.LlavaForConditionalGeneration(config), processor


def _idefics3(tokenizer):
    import transformers
    from transformers.models.idefics3.image_processing_pil_idefics3 import (
        Idefics3ImageProcessorPil,
    )

    config = transformers.Idefics3Config(
        text_config=transformers.LlamaConfig(**TEXT),
        vision_config=VISION,
        image_token_id=SPECIAL.index("<image>"),
        scale_factor=2,
        pad_token_id=0,
    )
    edge = {"longest_edge": SIZE}
    images = Idefics3ImageProcessorPil(size=edge, max_image_size=edge, do_image_splitting=False)
    processor = transformers.Idefics3Processor(
        images, tokenizer, image_seq_len=1, chat_template=CHAT_TEMPLATE
    )
    return transformers.Idefics3ForConditionalGeneration(config), processor


def _qwen2_vl(tokenizer):
    import transformers

    rope = {"rope_type": "default", "mrope_section": [1, 1, 2], "rope_theta": 10000.0}
    vision = {"depth": 2, "embed_dim": 24, "num_heads": 2, "patch_size": PATCH, "mlp_ratio": 1}
    config = transformers.Qwen2VLConfig(
        text_config={**TEXT, "rope_parameters": rope},
        vision_config={**vision, "hidden_size": TEXT["hidden_size"]},
        image_token_id=SPECIAL.index("<|image_pad|>"),
        video_token_id=SPECIAL.index("<|video_pad|>"),
        tie_word_embeddings=False,
    )
    return transformers.Qwen2VLForConditionalGeneration(config), None
