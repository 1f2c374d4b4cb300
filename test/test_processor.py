"""ActionProcessor: the interface of the public FAST processor, lists of ids and back."""

import numpy as np
import pytest
import torch

from nac_ros.core.config import config_dir
from nac_ros.core.errors import BadActions, BadTokens, BundleError, ConfigError, NacError
from nac_ros.tokenizers import ActionProcessor, list_tokenizers, load_tokenizer, make_tokenizer
from nac_ros.tokenizers.base import TOKENIZERS
from nac_ros.tokenizers.grammar import PAD

UNLEARNED = [name for name in list_tokenizers() if not TOKENIZERS.get(name).learned]
LEARNED = [name for name in list_tokenizers() if TOKENIZERS.get(name).learned]


def walks(n: int = 200, horizon: int = 16, dim: int = 3) -> np.ndarray:
    """Random walks `[n, horizon, dim]` like joints in motion."""
    steps = np.random.default_rng(0).standard_normal((n, horizon, dim))
    return (0.02 * steps.cumsum(1)).astype(np.float32)


@pytest.fixture(scope="module", params=list_tokenizers())
def processor(request):
    made = make_tokenizer(request.param, horizon=16, action_dim=3)
    return ActionProcessor(made.fit(walks()))


@pytest.fixture(scope="module")
def fast():
    return ActionProcessor.fit(walks())


def test_ids_are_the_tokens_as_lists_without_padding(processor):
    ids = processor(walks(9))
    tokens = processor.tokenizer.encode(walks(9)).tolist()
    assert ids == [[token for token in row if token != PAD] for row in tokens]
    assert {type(token) for row in ids for token in row} == {int}
    assert all(0 <= token < processor.vocab_size for row in ids for token in row)


def test_decoded_actions_equal_those_of_the_tokenizer(processor):
    actions = processor.decode(processor(walks(9)))
    assert actions.dtype == np.float32 and actions.shape == (9, 16, 3)
    tokenizer = processor.tokenizer
    assert np.array_equal(actions, tokenizer.decode(tokenizer.encode(walks(9))).numpy())
    assert (processor.time_horizon, processor.horizon, processor.action_dim) == (16, 16, 3)


def test_fast_returns_and_decodes_lists_of_different_length(fast):
    ids = fast(walks(20))
    assert len({len(row) for row in ids}) > 1
    one_by_one = np.concatenate([fast.decode([row]) for row in ids])
    assert np.array_equal(fast.decode(ids), one_by_one)
    assert np.abs(one_by_one - walks(20)).max() < 0.05


@pytest.mark.parametrize("kind", [np.asarray, torch.from_numpy, np.ndarray.tolist, list])
def test_chunks_may_be_arrays_tensors_or_lists(fast, kind):
    assert fast(kind(walks(4))) == fast(walks(4))
    assert fast(kind(walks(4).astype(np.float64))) == fast(walks(4))


def test_a_single_chunk_is_a_batch_of_one(fast):
    ids = fast(walks(4)[0])
    assert ids == fast(walks(4))[:1]
    assert fast.decode(ids).shape == (1, 16, 3)


def test_ids_may_be_arrays_or_tensors(processor):
    ids = processor(walks(1))
    for kind in (np.array, torch.tensor, lambda ids: [np.array(ids[0])], tuple):
        assert np.array_equal(processor.decode(kind(ids)), processor.decode(ids))


@pytest.mark.parametrize(
    "ids",
    [
        None,
        3,
        "ids",
        [],
        [[]],
        [3],
        [["a"]],
        [[1.0]],
        [[True]],
        [[[1]]],
        [[10**30]],
        [[-1]],
        [[-7]],
        {"ids": [[1]]},
        torch.tensor(3),
        torch.zeros(1, 4),
        np.zeros((0, 3), np.int64),
    ],
    ids=repr,
)
def test_anything_but_lists_of_ids_is_rejected(processor, ids):
    with pytest.raises(BadTokens):
        processor.decode(ids)


def test_truncated_extended_and_unknown_ids_are_rejected(processor):
    (ids,) = processor(walks(1))
    for bad in (ids[:-1], ids + ids[-1:], [*ids[:-1], processor.vocab_size], [PAD, *ids[1:]]):
        with pytest.raises(BadTokens):
            processor.decode([bad])
        with pytest.raises(BadTokens):
            processor.decode([ids, bad])


def test_a_short_row_among_complete_ones_is_reported_as_incomplete():
    bins = ActionProcessor.fit(walks(), "bin")
    (ids,) = bins(walks(1))
    with pytest.raises(BadTokens, match="ends after 5 tokens"):
        bins.decode([ids, ids[:5]])


@pytest.mark.parametrize(
    ("actions", "message"),
    [
        ([[[0.1, 0.2], [0.3]]], "equally long"),
        ("actions", "real numbers"),
        (None, "real numbers"),
        (np.zeros(3), r"\[H, D\]"),
        (np.zeros((1, 1, 16, 3)), r"\[H, D\]"),
        (np.zeros((15, 3)), "16, 3"),
        (np.full((16, 3), np.nan), "nan"),
        (np.zeros((16, 3), complex), "real numbers"),
    ],
)
def test_invalid_actions_are_rejected_with_a_sentence(fast, actions, message):
    with pytest.raises(BadActions, match=message):
        fast(actions)


@pytest.mark.parametrize("name", UNLEARNED)
def test_relative_columns_need_a_reference(name):
    chunks = walks() + 1
    made = ActionProcessor.fit(chunks, name, reference=chunks[:, 0], relative=[True, True, False])
    ids = made(chunks[:5], reference=chunks[:5, 0])
    decoded = made.decode(ids, reference=chunks[:5, 0])
    shifted = made.decode(ids, reference=(chunks[:5, 0] + 1).tolist())
    assert np.allclose(shifted - decoded, np.broadcast_to([1, 1, 0], decoded.shape), atol=1e-5)
    assert made(chunks[0], reference=chunks[0, 0]) == ids[:1]
    for call in (lambda: made(chunks[:5]), lambda: made.decode(ids, reference=chunks[0, 0])):
        with pytest.raises(BadActions, match="reference"):
            call()


@pytest.mark.parametrize("name", UNLEARNED)
def test_fit_makes_any_tokenizer_that_needs_no_training(name):
    made = ActionProcessor.fit(walks(), name, rate_hz=20)
    assert made.tokenizer.name == name and made.tokenizer.config.rate_hz == 20
    again = make_tokenizer(name, horizon=16, action_dim=3, rate_hz=20).fit(walks())
    assert made(walks(6)) == ActionProcessor(again)(walks(6))


@pytest.mark.parametrize("name", LEARNED)
def test_fit_of_a_learned_tokenizer_names_the_training_command(name):
    with pytest.raises(ConfigError, match=f"nac tokenizer train --tokenizer {name}"):
        ActionProcessor.fit(walks(), name)


def test_a_saved_processor_is_a_tokenizer_folder(processor, tmp_path):
    processor.save_pretrained(tmp_path / "ours")
    processor.tokenizer.save_pretrained(tmp_path / "theirs")
    for path in (tmp_path / "theirs").iterdir():
        assert (tmp_path / "ours" / path.name).read_bytes() == path.read_bytes()
    again = ActionProcessor.from_pretrained(tmp_path / "ours")
    tokenizer = load_tokenizer(tmp_path / "ours")
    assert again(walks(3)) == processor(walks(3)) == ActionProcessor(tokenizer)(walks(3))


def test_a_bundle_can_be_loaded_and_an_empty_folder_is_rejected(tmp_path):
    processor = ActionProcessor.from_pretrained(config_dir().parent / "models" / "default")
    assert processor.tokenizer.name == "nac" and processor.horizon == 32
    with pytest.raises(BundleError, match=r"config\.json"):
        ActionProcessor.from_pretrained(tmp_path)


def test_an_unfitted_tokenizer_is_rejected():
    with pytest.raises(NacError, match="fit"):
        ActionProcessor(make_tokenizer("fast"))(np.zeros((32, 7)))
