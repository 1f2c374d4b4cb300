"""Tasks by a text encoder: paraphrases, unknown and ambiguous texts, saving, another model.

The text model is a BERT without layers whose word vectors are built: synonyms share one, words
without meaning have none, so the mean of a sentence is known.
"""

import json
import shutil

import numpy as np
import pytest
import torch

from nac_ros.core.errors import ConfigError, NacError, UnknownName
from nac_ros.core.types import Observation
from nac_ros.export.bundle import load_bundle, write_bundle
from nac_ros.policies import text_encoder
from nac_ros.policies.base import load_policy, make_policy, warm_start
from nac_ros.policies.observation_encoder import Inputs
from nac_ros.policies.text_encoder import TextEncoder, nearest_task
from nac_ros.robot.spec import load_robot
from nac_ros.tokenizers import make_tokenizer

SYNONYMS = (
    ("put", "place", "drop"),
    ("marker", "pen"),
    ("bin", "box"),
    ("scale", "weighing", "machine"),
    ("turn", "switch"),
    ("on",),
    ("pour",),
    ("coffee",),
)
WITHOUT_MEANING = ("[PAD]", "the", "in", "into", "a", ".", "please")
TASKS = {"marker": "Place the marker in the bin.", "weighing": "Turn on the weighing machine."}
FACTS = {"cameras": (), "state_dim": 7, "dim": 32, "n_layers": 1, "n_heads": 2}


def save_text_model(folder, seed=0):
    """A BERT without layers and a word tokenizer."""
    transformers = pytest.importorskip("transformers")
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers

    words = [*WITHOUT_MEANING, "[UNK]", *(word for group in SYNONYMS for word in group)]
    config = transformers.BertConfig(
        vocab_size=len(words), hidden_size=32, num_hidden_layers=0, num_attention_heads=2
    )
    model = transformers.BertModel(config, add_pooling_layer=False)
    torch.manual_seed(seed)
    basis = torch.linalg.qr(torch.randn(32, 32)).Q
    with torch.no_grad():
        for table in model.embeddings.children():
            if isinstance(table, torch.nn.Embedding):
                table.weight.zero_()
        vectors = model.embeddings.word_embeddings.weight
        vectors[words.index("[UNK]")] = basis[len(SYNONYMS)]
        for index, group in enumerate(SYNONYMS):
            for word in group:
                vectors[words.index(word)] = basis[index]
    model.save_pretrained(folder)
    level = models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="[UNK]")
    tokenizer = Tokenizer(level)
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.save(str(folder / "tokenizer.json"))
    return folder


@pytest.fixture(scope="module")
def text_folder(tmp_path_factory):
    return save_text_model(tmp_path_factory.mktemp("bert"))


@pytest.fixture(scope="module")
def tokenizer():
    chunks = np.random.default_rng(0).standard_normal((64, 8, 7)).astype(np.float32)
    return make_tokenizer("bin", horizon=8).fit(chunks)


def make(tokenizer, folder, **changes):
    torch.manual_seed(0)
    facts = {**FACTS, "tasks": TASKS, "text_folder": str(folder), **changes}
    return make_policy("ar", "small", tokenizer, **facts).eval()


def inputs(task):
    return Inputs({}, torch.zeros(1, 2, 7), torch.tensor([task]))


def test_embeddings_have_unit_length_and_do_not_depend_on_the_other_texts(text_folder):
    encoder = TextEncoder(str(text_folder))
    together = encoder(["place the marker", "pour the coffee in the bin please"])
    assert torch.allclose(together.norm(dim=1), torch.ones(2), atol=1e-5)
    assert torch.allclose(encoder(["place the marker"])[0], together[0], atol=1e-6)


def test_the_first_token_is_taken_where_the_folder_says_so(text_folder, tmp_path):
    copy = shutil.copytree(text_folder, tmp_path / "bert")
    (copy / "1_Pooling").mkdir()
    (copy / "1_Pooling/config.json").write_text(json.dumps({"pooling_mode_cls_token": True}))
    first, whole = TextEncoder(str(copy)), TextEncoder(str(text_folder))
    assert torch.allclose(first(["put the marker"]), whole(["put"]), atol=1e-5)


def test_a_paraphrase_of_a_trained_prompt_names_its_task(tokenizer, text_folder):
    policy = make(tokenizer, text_folder)
    assert policy.task_index("weighing") == policy.task_index(TASKS["weighing"]) == 1
    assert policy.task_index("please switch on the scale") == 1
    assert policy.task_index("Drop a pen into the box") == 0
    observation = Observation(0.0, {}, np.zeros((2, 7), np.float32), "put the pen in the box")
    assert policy.inputs(observation).task.tolist() == [0]


def test_an_unknown_task_is_rejected_with_the_nearest_prompt(tokenizer, text_folder):
    policy = make(tokenizer, text_folder)
    with pytest.raises(
        UnknownName, match=r"'pour the coffee'.*similarity of -?0\.0\d, at least 0\.8.*weighing \("
    ):
        policy.task_index("pour the coffee")
    with pytest.raises(UnknownName, match=r"nearest prompt is 'Place the marker.* 0\.6\d, at"):
        policy.task_index("place the marker coffee")  # two of three words
    with pytest.raises(UnknownName, match="unknown task ''"):
        policy.task_index("")
    lenient = make(tokenizer, text_folder, min_similarity=0.6)
    assert lenient.task_index("place the marker coffee") == 0


def test_a_text_between_two_tasks_is_rejected():
    prompts = torch.nn.functional.normalize(torch.tensor([[1.0, 0.0], [1.0, 0.4]]), dim=1)
    tasks = {"a": "do A", "b": "do B"}
    between = torch.nn.functional.normalize(torch.tensor([1.0, 0.2]), dim=0)
    with pytest.raises(UnknownName, match=r"ambiguous task 'both'.*'[ab]' is as near"):
        nearest_task("both", between, tasks, prompts, 0.8, 0.05)
    assert nearest_task("A", prompts[0], tasks, prompts, 0.8, 0.05) == 0


def test_the_policy_sees_the_embedding_of_the_prompt(tokenizer, text_folder):
    policy = make(tokenizer, text_folder)
    assert "observation_encoder.task_embedding.weight" not in policy.state_dict()
    wanted = TextEncoder(str(text_folder))(list(TASKS.values()))
    assert torch.equal(policy.prompt_embeddings, wanted)
    vectors = [policy.context_vectors(inputs(task))[0, 1] for task in (0, 1)]
    projected = policy.observation_encoder.task_projection(wanted)
    assert torch.allclose(torch.stack(vectors), projected, atol=1e-6)


def test_tasks_whose_prompts_mean_the_same_look_the_same(tokenizer, text_folder):
    tasks = {"a": "Put the pen in the box.", "b": "Place a marker into a bin."}
    policy = make(tokenizer, text_folder, tasks=tasks)
    first, second = (policy.context_vectors(inputs(task)) for task in (0, 1))
    assert torch.allclose(first, second, atol=1e-5)


def test_a_small_text_model_is_saved_with_the_policy(tokenizer, text_folder, tmp_path):
    copy = shutil.copytree(text_folder, tmp_path / "bert")
    policy = make(tokenizer, copy)
    policy.save_pretrained(tmp_path / "policy")
    shutil.rmtree(copy)
    loaded = load_policy(tmp_path / "policy", tokenizer)
    assert loaded.task_index("switch on the scale") == 1
    assert torch.equal(loaded.prompt_embeddings, policy.prompt_embeddings)
    loaded.save_pretrained(tmp_path / "again")
    assert load_policy(tmp_path / "again", tokenizer).task_index("switch on the scale") == 1


def test_a_bundle_understands_a_paraphrase(text_folder, tmp_path):
    robot = load_robot("vx300s")
    columns = {"names": robot.joint_names, "units": robot.units, "rate_hz": robot.action_rate_hz}
    chunks = np.random.default_rng(0).standard_normal((64, 8, 7)).astype(np.float32)
    bins = make_tokenizer("bin", horizon=8, relative=robot.relative_mask.tolist(), **columns)
    copy = shutil.copytree(text_folder, tmp_path / "bert")
    policy = make(bins.fit(chunks, chunks[:, 0]), copy, n_action_steps=4)
    path = write_bundle(tmp_path / "bundle", policy, robot, {}, "a card")
    shutil.rmtree(copy)
    bundle = load_bundle(path)
    assert "policy/text_encoder/model.safetensors" in bundle.manifest.files
    assert bundle.policy.task_index("switch on the scale") == 1


def test_a_large_text_model_stays_in_its_folder(tokenizer, text_folder, tmp_path, monkeypatch):
    monkeypatch.setattr(text_encoder, "MAX_COPIED", 1000)
    copy = shutil.copytree(text_folder, tmp_path / "models" / "bert")
    make(tokenizer, copy).save_pretrained(tmp_path / "policy")
    assert not (tmp_path / "policy" / "text_encoder").exists()
    assert load_policy(tmp_path / "policy", tokenizer).task_index("switch on the scale") == 1
    shutil.move(tmp_path / "models", tmp_path / "moved")
    loaded = load_policy(tmp_path / "policy", tokenizer)
    assert loaded.task_index("weighing") == 1
    with pytest.raises(UnknownName, match=r"text_folder must name.*NAC_MODELS.*learned: marker"):
        loaded.task_index("switch on the scale")
    monkeypatch.setenv("NAC_MODELS", str(tmp_path / "moved"))
    assert loaded.task_index("switch on the scale") == 1


def test_another_text_model_is_rejected(tokenizer, text_folder, tmp_path, monkeypatch):
    monkeypatch.setattr(text_encoder, "MAX_COPIED", 1000)
    copy = shutil.copytree(text_folder, tmp_path / "bert")
    make(tokenizer, copy).save_pretrained(tmp_path / "policy")
    shutil.rmtree(copy)
    copy.mkdir()
    save_text_model(copy, seed=1)
    with pytest.raises(UnknownName, match="is not the text model that the policy was trained"):
        load_policy(tmp_path / "policy", tokenizer).task_index("switch on the scale")


def test_a_warm_start_keeps_the_embeddings_of_its_own_prompts(tokenizer, text_folder, tmp_path):
    trained = make(tokenizer, text_folder)
    with torch.no_grad():
        trained.observation_encoder.task_projection.weight.add_(1)
    trained.save_pretrained(tmp_path)
    fresh = make(tokenizer, text_folder, tasks={"a": "Pour the coffee.", "b": "Put it on."})
    before = fresh.prompt_embeddings.clone()
    warm_start(fresh, tmp_path)
    assert torch.equal(fresh.prompt_embeddings, before)
    encoders = [policy.observation_encoder for policy in (fresh, trained)]
    assert torch.equal(*(encoder.task_projection.weight for encoder in encoders))


@pytest.mark.parametrize("size", [{"num_hidden_layers": 10**5}, {"vocab_size": 10**6}])
def test_a_config_that_asks_for_far_more_than_its_weights_is_rejected(text_folder, tmp_path, size):
    copy = shutil.copytree(text_folder, tmp_path / "bert")
    config = json.loads((copy / "config.json").read_text())
    (copy / "config.json").write_text(json.dumps({**config, **size}))
    with pytest.raises(NacError, match="does not fit its config"):
        TextEncoder(str(copy))
    config["num_hidden_layers"] = 10**9
    (copy / "config.json").write_text(json.dumps(config))
    with pytest.raises(ConfigError, match="sets num_hidden_layers to 1000000000"):
        TextEncoder(str(copy))


def test_a_folder_without_a_tokenizer_is_rejected(tokenizer, text_folder, tmp_path):
    copy = shutil.copytree(text_folder, tmp_path / "bert")
    (copy / "tokenizer.json").unlink()
    with pytest.raises(ConfigError, match=r"tokenizer\.json is missing"):
        make(tokenizer, copy)
    with pytest.raises(ConfigError, match="text_folder must name a local folder"):
        make(tokenizer, "bert-base-uncased")
