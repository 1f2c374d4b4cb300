"""Interface of a policy: observations -> normalized action chunks; loading and warm starts.

A method is one file that registers one class. Everything else (trainer, bundle, golden vectors,
engine, chunk transition) knows only this interface.
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass, fields, replace
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from nac_ros.core import config as configs
from nac_ros.core.chunk_spec import ChunkSpec
from nac_ros.core.config import REQUIRED, check_fields, check_unique, number_field
from nac_ros.core.errors import BundleError, ConfigError, UnknownName, show_text
from nac_ros.core.normalize import ActionNormalizer
from nac_ros.core.observation_spec import ObservationSpec, list_tasks, unknown_task
from nac_ros.core.registry import Registry
from nac_ros.core.types import Observation
from nac_ros.policies.graphs import Graph
from nac_ros.policies.observation_encoder import Inputs, ObservationEncoder, VisionKind
from nac_ros.policies.sampling import Generator
from nac_ros.policies.text_encoder import (
    TEXT_ENCODER_FOLDER,
    TextEncoder,
    check_same_model,
    copy_text_encoder,
    nearest_task,
)
from nac_ros.policies.vision import describe_vision_model
from nac_ros.tokenizers.base import Tokenizer
from nac_ros.tokenizers.serialization import (
    WEIGHTS_FILE,
    check_elements,
    check_sizes,
    find_class,
    load_model,
    load_weights,
    read_config,
    save_model,
)

POLICIES: Registry["Policy"] = Registry(
    "policy",
    "nac_ros.policies",
    helpers=(
        "base",
        "codeword_head",
        "denoiser",
        "diffusion_schedule",
        "direct_policy",
        "graphs",
        "local_models",
        "observation_encoder",
        "sampling",
        "text_encoder",
        "token_policy",
        "transformer",
        "vision",
    ),
)

MAX_IMAGE, MAX_OBS_STEPS = 4096, 100  # pixels of a side; observations
MAX_COMMANDS = 1000  # past commands of an observation
PROMPTS = "prompt_embeddings"  # of a policy's state; see PolicyConfig.text_folder
FINGERPRINT = "tokenizer_fingerprint"  # of a policy's state; see TokenPolicy
FINGERPRINT_TOLERANCE = 1e-4  # rounding: another machine may add numbers in another order
MIN_STD = 1e-3  # added to the standard deviation of a state [rad, m, or as in the data]

# Training of preset `paper`: NAC, Table 5.
PAPER_TRAINING: dict[str, Any] = {
    "learning_rate": 5e-5,
    "vision_learning_rate": 1e-5,
    "batch": 256,
    "steps": 50_000,
}

# Training targets by name, each `[B, ...]`; "chunk" is the normalized chunk `[B, H, D]`.
Targets = dict[str, Tensor]


@dataclass(frozen=True, kw_only=True)
class PolicyConfig:
    """Inputs and execution of any policy.

    cameras: names in order, may be empty
    image_size: side of the square images the network takes [pixels]
    vision: image encoder, see nac_ros.policies.vision; `keypoints` is the smallest
    vision_width, n_keypoints: of the encoders `keypoints` and `resnet18` (n_keypoints alone)
    vision_folder: of `pretrained`, a local folder of a `transformers` vision model
    vision_model: of `pretrained`, its architecture, which is read from the folder; the weights
        are saved with the policy, so that it is loaded without the folder
    freeze_vision: train only the projection of the image features
    tasks: task id -> prompt; an observation may name either
    text_folder: local folder of a `transformers` text model; the policy then takes the embeddings
        of the prompts instead of learned ones, and an observation may paraphrase a prompt
    text_dim: size of these embeddings, which is read from the folder; 0 = none
    min_similarity: cosine similarity that a paraphrase needs to a trained prompt
    similarity_margin: how much less similar the second prompt must be
    environment_state_dim: size of the low-dimensional environment state, 0 = not observed
    n_past_commands: executed actions before the observation that the policy sees, 0 = none
    n_obs_steps: observations of one input
    n_action_steps: executed steps of each chunk before a newer one replaces it
    """

    cameras: tuple[str, ...]
    tasks: dict[str, str]
    state_dim: int = number_field(REQUIRED, 1)
    image_size: int = number_field(96, 1, MAX_IMAGE)
    vision: VisionKind = "keypoints"
    vision_width: int = number_field(64, 1)
    n_keypoints: int = number_field(32, 1)
    vision_folder: str = ""
    vision_model: str = ""
    freeze_vision: bool = False
    text_folder: str = ""
    text_dim: int = number_field(0, 0)
    min_similarity: float = number_field(0.8, -1, 1)
    similarity_margin: float = number_field(0.05, 0, 2)
    environment_state_dim: int = number_field(0, 0)
    n_past_commands: int = number_field(0, 0, MAX_COMMANDS)
    n_obs_steps: int = number_field(2, 1, MAX_OBS_STEPS)
    n_action_steps: int = number_field(16, 1)

    def __post_init__(self) -> None:
        if not self.tasks:
            raise ConfigError("a policy needs at least one task")
        check_fields(self)
        check_sizes(self)
        check_unique("cameras", self.cameras)
        if self.vision_width % 32:
            raise ConfigError(f"vision_width {self.vision_width} must be a multiple of 32")
        is_described = bool(self.vision_folder or self.vision_model)
        if is_described != (self.vision == "pretrained"):
            raise ConfigError(
                "vision_folder names the local vision model of vision 'pretrained', got vision "
                f"'{self.vision}' and vision_folder '{self.vision_folder}'"
            )


class PredictionContext(NamedTuple):
    """The current chunk, at the time steps of the chunk to be predicted.

    actions: normalized like the new chunk, `[B, H, D]`; its last action is held beyond its end
    committed: bool `[B, H]`, steps that will have been executed before the new chunk takes effect
    known: bool `[B, H]`, steps before the end of the current chunk
    """

    actions: Tensor
    committed: Tensor
    known: Tensor


class TokenConfidence(NamedTuple):
    """Confidence in each sampled token, both float `[B, L]`.

    entropy: of the distribution over legal tokens [nats]
    margin: probability of the most likely legal token less that of the second
    """

    entropy: Tensor
    margin: Tensor


class PolicyOutput(NamedTuple):
    """Predicted chunks of a batch.

    chunk: normalized, float32 `[B, H, D]`
    tokens: int64 `[B, L]` that it was decoded from; None without tokens
    confidence: of the tokens; None without
    """

    chunk: Tensor
    tokens: Tensor | None = None
    confidence: TokenConfidence | None = None


class Policy(nn.Module, ABC):
    """Predicts normalized action chunks from Inputs.

    A subclass makes its networks, `observation_encoder` among them, and implements `normalizer`,
    `loss` and `predict`.

    takes_tokenizer: whether the policy is made over a tokenizer
    required_folder: field of the config that must name a local model folder, '' for none
    token_prefixes: prefixes of the state_dict keys that depend on the tokenizer
    task_tables: state_dict keys with one row per task of the config
    """

    Config: ClassVar[type[PolicyConfig]] = PolicyConfig
    presets: ClassVar[dict[str, dict[str, Any]]] = {}
    training_defaults: ClassVar[dict[str, dict[str, Any]]] = {}  # training config by preset
    name: ClassVar[str]
    takes_tokenizer: ClassVar[bool]
    required_folder: ClassVar[str] = ""
    token_prefixes: ClassVar[tuple[str, ...]] = ()
    task_tables: ClassVar[tuple[str, ...]] = ("observation_encoder.task_embedding.weight",)
    observation_encoder: ObservationEncoder

    def __init__(self, config: PolicyConfig, preset: str, chunk_spec: ChunkSpec):
        super().__init__()
        self.config, self.preset, self.chunk_spec = config, preset, chunk_spec
        check_elements("a chunk", chunk_spec.horizon, chunk_spec.action_dim)
        self.register_buffer("state_mean", torch.zeros(config.state_dim))
        self.register_buffer("state_std", torch.ones(config.state_dim))
        self.register_buffer("environment_mean", torch.zeros(config.environment_state_dim))
        self.register_buffer("environment_std", torch.ones(config.environment_state_dim))
        self.text_encoder_folder = config.text_folder
        self._text_encoder: TextEncoder | None = None  # loaded when a text is no known prompt
        self._paraphrase: tuple[str, int] | None = None  # the last one and its task
        if config.text_dim:
            check_elements("the prompt embeddings", len(config.tasks), config.text_dim)
            self.register_buffer(PROMPTS, torch.zeros(len(config.tasks), config.text_dim))

    @property
    @abstractmethod
    def normalizer(self) -> ActionNormalizer:
        """Normalizer of the chunks, tensors on the policy's device."""

    @property
    @abstractmethod
    def absolute_normalizer(self) -> ActionNormalizer:
        """Range of the absolute training actions, tensors on the policy's device."""

    @abstractmethod
    def loss(self, inputs: Inputs, targets: Targets) -> dict[str, Tensor]:
        """Named scalar losses of a batch; training minimizes their sum."""

    @abstractmethod
    def predict(
        self,
        inputs: Inputs,
        n_samples: int = 1,
        context: PredictionContext | None = None,
        generator: Generator = None,
    ) -> PolicyOutput:
        """Predicts `n_samples` chunks of each observation, those of one observation adjacent.

        context: the current chunk, `[B, ...]`; only if `supports_context`
        generator: of the random numbers
        """

    @cached_property
    def observation_spec(self) -> ObservationSpec:
        """What the policy observes."""
        names = {field.name for field in fields(ObservationSpec)} - {"action_dim"}
        values = {name: getattr(self.config, name) for name in names}
        return ObservationSpec(**values, action_dim=self.chunk_spec.action_dim)

    @property
    def supports_context(self) -> bool:
        """Whether `predict` uses a PredictionContext."""
        return False

    @property
    def predicts_tokens(self) -> bool:
        """Whether `predict` samples tokens and decodes its chunks from them."""
        return False

    @property
    def device(self) -> torch.device:
        return self.state_mean.device

    @property
    def params_m(self) -> float:
        """Millions of parameters, without those of a tokenizer."""
        own = (p for key, p in self.named_parameters() if not self.is_stored_elsewhere(key))
        return sum(p.numel() for p in own) / 1e6

    @property
    def target_offsets(self) -> np.ndarray:
        """Steps after an observation whose actions `prepare_targets` takes, int64 `[M]`, M >= H;
        the first H are those of the chunk, 0 .. H - 1."""
        return np.arange(self.chunk_spec.horizon)

    def prepare_targets(self, actions: Tensor, references: Tensor) -> Targets:
        """Training targets from actions `[B, M, D]` at `target_offsets` and joint states `[B, D]`.

        Raises BadActions or BadTokens for a chunk that the policy cannot represent.
        """
        return {"chunk": self.normalizer.normalize(actions, references)}

    def fit_actions(self, actions: np.ndarray, references: np.ndarray) -> None:
        """Sets the statistics of chunks `[N, H, D]`, before `prepare_targets` is called first."""

    def fit_targets(self, targets: Targets) -> None:
        """Sets data-dependent state from a sample of the training targets, before training."""

    @torch.no_grad()
    def evaluate(
        self, inputs: Inputs, targets: Targets, generator: torch.Generator
    ) -> dict[str, float]:
        """Held-out metrics of a batch; `l1` is the normalized L1 error of the predicted chunk."""
        output = self.predict(inputs, generator=generator)
        return {"l1": float((output.chunk - targets["chunk"]).abs().mean())}

    @torch.no_grad()
    def golden_outputs(self, inputs: Inputs, tokens: Tensor | None) -> dict[str, Tensor]:
        """Outputs that another machine reproduces up to rounding, each `[N, ...]`.

        tokens: those that the policy sampled for `inputs` when the bundle was made, or None
        """
        return {"chunk": self.predict(inputs, generator=np.random.default_rng(0)).chunk}

    def graphs(self) -> dict[str, Graph]:
        """Parts for export to ONNX; `context` takes the observation. nac_ros.inference runs them.

        Raises ConfigError if the policy cannot be exported.
        """
        raise ConfigError(f"{self.describe()} has no ONNX export; export it with --runtime torch")

    def describe(self) -> str:
        """A few words for messages."""
        return f"policy {self.name}"

    def encode_images(self, inputs: Inputs) -> Tensor:
        """Features `[B, cameras, E]` of the images; the policy uses nothing else of them."""
        return self.observation_encoder.encode_images(inputs)

    def vision_parameters(self) -> list[nn.Parameter]:
        """Parameters of the image encoders, which may have their own learning rate."""
        return list(self.observation_encoder.vision.parameters())

    def context_vectors(self, inputs: Inputs) -> Tensor:
        """Inputs -> context vectors `[B, n, dim]` of the observation encoder."""
        features = self.encode_images(inputs)
        return self.observation_encoder(self.normalized_inputs(inputs), features)

    def normalized_inputs(self, inputs: Inputs) -> Inputs:
        """Joint states and environment state standardized, past commands normalized like chunks
        with the newest joint state as reference."""
        environment, commands = inputs.environment_state, inputs.past_commands
        if environment is not None:
            environment = (environment - self.environment_mean) / self.environment_std
        if commands is not None:
            commands = self.normalizer.normalize(commands, inputs.proprio[:, -1])
        proprio = (inputs.proprio - self.state_mean) / self.state_std
        prompt = self.prompt_embeddings[inputs.task] if self.config.text_dim else None
        return inputs._replace(
            proprio=proprio,
            environment_state=environment,
            past_commands=commands,
            prompt=prompt,
        )

    @torch.no_grad()
    def fit_state(self, proprio: np.ndarray, environment: np.ndarray | None = None) -> None:
        """Sets mean and standard deviation of the joint states `[N, D]`, and of the environment
        states `[N, E]`. The outputs of a policy that was trained before do not change."""
        mean = torch.from_numpy(proprio.mean(0)).to(self.state_mean)
        std = torch.from_numpy(proprio.std(0) + MIN_STD).to(self.state_std)
        if not (self.state_std == 1).all():
            self.observation_encoder.rescale_state(self.state_mean, self.state_std, mean, std)
        self.state_mean.copy_(mean)
        self.state_std.copy_(std)
        if environment is None:
            return
        before = self.environment_mean, self.environment_std
        mean = torch.from_numpy(environment.mean(0)).to(self.environment_mean)
        std = torch.from_numpy(environment.std(0) + MIN_STD).to(self.environment_std)
        if not (self.environment_std == 1).all():
            self.observation_encoder.rescale_environment(*before, mean, std)
        self.environment_mean.copy_(mean)
        self.environment_std.copy_(std)

    def task_index(self, task: str) -> int:
        """Index of a task id or prompt, or with a text encoder of a paraphrase of a prompt.

        Raises UnknownName, which lists the known ones.
        """
        index = self.observation_spec.task_index(task)
        if index is not None:
            return index
        if not self.config.text_dim:
            raise unknown_task(task, self.config.tasks)
        if self._paraphrase is None or self._paraphrase[0] != task:
            self._paraphrase = task, self._nearest_task(task)
        return self._paraphrase[1]

    def _nearest_task(self, text: str) -> int:
        """Index of the task that `text` paraphrases; raises UnknownName."""
        config = self.config
        try:
            encoder = self._find_text_encoder()
        except ConfigError as error:
            raise UnknownName(
                f"unknown task '{show_text(text, 200)}', and it cannot be compared to the trained "
                f"prompts: {error}; {list_tasks(config.tasks)}"
            ) from error
        limits = (config.min_similarity, config.similarity_margin)
        prompts = self.prompt_embeddings.cpu()
        return nearest_task(text, encoder([text])[0], config.tasks, prompts, *limits)

    def _find_text_encoder(self) -> TextEncoder:
        """The text model of the prompts, loaded once; raises ConfigError."""
        if self._text_encoder is None:
            encoder = TextEncoder(self.text_encoder_folder)
            found = encoder(list(self.config.tasks.values()))
            check_same_model(found, self.prompt_embeddings, encoder.folder)
            self._text_encoder = encoder
        return self._text_encoder

    def load_local_models(self) -> None:
        """Reads the weights of a new policy's pretrained models from their folders, and computes
        the embeddings of the prompts; raises ConfigError."""
        self.observation_encoder.load_vision(self.config.vision_folder)
        if self.config.text_dim:
            encoder = TextEncoder(self.config.text_folder)
            self.prompt_embeddings.copy_(encoder(list(self.config.tasks.values())))

    def inputs(self, observation: Observation) -> Inputs:
        """One observation as a batch of one; raises BadObservation where its shapes do not fit."""
        arrays = self.observation_spec.arrays(observation)
        tensors = {key: torch.from_numpy(x).to(self.device) for key, x in arrays.items()}
        task = torch.tensor([self.task_index(observation.task)], device=self.device)
        images = {name: tensors[f"images.{name}"] for name in self.config.cameras}
        optional = (tensors.get("environment_state"), tensors.get("past_commands"))
        return Inputs(images, tensors["proprio"], task, None, *optional)

    def own_state(self) -> dict[str, Tensor]:
        """`state_dict` without the entries that are stored elsewhere."""
        state = self.state_dict()
        return {key: value for key, value in state.items() if not self.is_stored_elsewhere(key)}

    def save_pretrained(self, folder: Path | str, half: bool = False) -> None:
        """Writes config.json and model.safetensors; `half` stores matrices in float16.

        A small text encoder is copied too, so that paraphrases are understood without its folder.
        """
        save_model(self, folder, half, training_only=self.is_stored_elsewhere)
        if self.config.text_dim:
            copy_text_encoder(self.text_encoder_folder, Path(folder) / TEXT_ENCODER_FOLDER)

    def check_loaded(self, path: Path) -> None:
        """Raises BundleError if the weights, which were read from `path`, cannot be used."""

    @staticmethod
    def is_stored_elsewhere(key: str) -> bool:
        """Whether an entry of the state is not in the policy's own file: the tokenizer's."""
        return key.startswith("tokenizer.")


def make_policy(name: str, preset: str, source: Tokenizer | ChunkSpec, **config: Any) -> Policy:
    """A new policy over a tokenizer, or for chunks of a spec; `config` overrides the preset.

    Raises UnknownName for an unknown name or preset, and ConfigError if the policy takes a
    tokenizer and `source` is none, or the other way round.
    """
    cls = POLICIES.get(name)
    if preset not in cls.presets:
        raise UnknownName(
            f"policy {name} has no preset '{preset}'; known are: {', '.join(cls.presets)}"
        )
    _check_source(cls, source)
    values = {**cls.presets[preset], **config}
    if isinstance(source, ChunkSpec):
        names = {field.name for field in fields(ChunkSpec)}  # not those of a tokenizer's config
        plain = configs.to_plain(source)
        values["chunk_spec"] = {name: plain[name] for name in names}
    built = _with_local_models(configs.build(cls.Config, values, f"policy {name}"))
    policy = _construct(cls, built, preset, source)
    policy.load_local_models()
    return policy


def _with_local_models(config: PolicyConfig) -> PolicyConfig:
    """The config with what the folders of its pretrained models state; raises ConfigError."""
    found: dict[str, Any] = {}
    if config.vision_folder and not config.vision_model:
        found["vision_model"] = describe_vision_model(config.vision_folder)
    if config.text_folder and not config.text_dim:
        found["text_dim"] = TextEncoder(config.text_folder).dim
    return replace(config, **found)


def warm_start(policy: Policy, folder: Path | str, prefix: str = "") -> int:
    """Copies every fitting tensor of the policy saved in `folder` whose name starts with `prefix`;
    returns how many.

    With another tokenizer only tensors that do not depend on it are copied. Rows of tasks that
    both policies know are copied by task id.
    """
    path = Path(folder) / WEIGHTS_FILE
    if not path.is_file():
        raise BundleError(f"no policy to start from at {folder}: {path.name} is missing")
    own, saved = policy.own_state(), load_weights(path)
    skipped = () if _have_same_tokenizer(own, saved) else policy.token_prefixes
    copied = {
        key: value
        for key, value in saved.items()
        if key in own and own[key].shape == value.shape and not key.startswith(skipped)
    }
    copied.pop(PROMPTS, None)  # its own are those of its own prompts
    for key in set(policy.task_tables) & set(saved):
        copied[key] = _merge_task_rows(policy, own[key], saved[key], Path(folder))
    copied = {key: value for key, value in copied.items() if key.startswith(prefix)}
    policy.load_state_dict(copied, strict=False)
    return len(copied)


def _have_same_tokenizer(own: dict[str, Tensor], saved: dict[str, Tensor]) -> bool:
    """Whether both states are of policies over the same codewords and statistics, or of none."""
    ours, theirs = own.get(FINGERPRINT), saved.get(FINGERPRINT)
    if ours is None or theirs is None:
        return ours is theirs
    return is_same_fingerprint(ours, theirs)


def is_same_fingerprint(ours: Tensor, theirs: Tensor) -> bool:
    """Whether two fingerprints `[N]` are those of one tokenizer."""
    limits = {"rtol": FINGERPRINT_TOLERANCE, "atol": FINGERPRINT_TOLERANCE}
    return ours.shape == theirs.shape and torch.allclose(ours, theirs, **limits)


def _merge_task_rows(policy: Policy, own: Tensor, saved: Tensor, folder: Path) -> Tensor:
    """`own` rows `[tasks, D]`, replaced where the policy saved in `folder` knows the task."""
    saved_tasks = list(read_config(folder, "policy").config.get("tasks", ()))
    rows = own.clone()
    for index, task in enumerate(policy.config.tasks):
        if task in saved_tasks and saved.shape[1:] == own.shape[1:]:
            rows[index] = saved[saved_tasks.index(task)]
    return rows


def takes_tokenizer(folder: Path | str) -> bool:
    """Whether the policy saved in `folder` predicts tokens; raises BundleError."""
    return bool(find_class(POLICIES, read_config(folder, "policy")).takes_tokenizer)


def load_policy(folder: Path | str, tokenizer: Tokenizer | None) -> Policy:
    """The policy saved in `folder`, over its `tokenizer` if it has one; raises BundleError."""
    saved = read_config(folder, "policy")
    cls = find_class(POLICIES, saved)

    def make(config: PolicyConfig) -> Policy:
        return _construct(cls, config, saved.preset, tokenizer if cls.takes_tokenizer else None)

    policy = load_model(saved, "policy", cls.Config, make, cls.is_stored_elsewhere)
    path = saved.folder / WEIGHTS_FILE
    if not bool((policy.state_std > 0).all() and (policy.environment_std > 0).all()):
        raise BundleError(
            f"{path}: state_std and environment_std must be above 0; train or export it again"
        )
    if (saved.folder / TEXT_ENCODER_FOLDER).is_dir():
        policy.text_encoder_folder = str(saved.folder / TEXT_ENCODER_FOLDER)
    policy.check_loaded(path)
    return policy.eval()


def _construct(
    cls: type[Policy], config: Any, preset: str, source: Tokenizer | ChunkSpec | None
) -> Policy:
    _check_source(cls, source)
    return cls(config, preset, source if cls.takes_tokenizer else config.chunk_spec)


def _check_source(cls: type[Policy], source: Tokenizer | ChunkSpec | None) -> None:
    is_tokenizer = isinstance(source, Tokenizer)
    if cls.takes_tokenizer and not is_tokenizer:
        raise ConfigError(f"policy {cls.name} predicts tokens; give its tokenizer")
    if not cls.takes_tokenizer and is_tokenizer:
        raise ConfigError(f"policy {cls.name} predicts actions without tokens; give no tokenizer")
