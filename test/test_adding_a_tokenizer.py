"""The example file of docs/adding-a-tokenizer.md works in every command without other changes."""

import re
import sys
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch

import nac_ros.tokenizers as package
from nac_ros.cli.main import main
from nac_ros.core.errors import BadActions, BadTokens
from nac_ros.tokenizers import list_tokenizers, load_tokenizer, make_tokenizer
from nac_ros.tokenizers.base import TOKENIZERS

DOC = Path(__file__).resolve().parent.parent / "docs/adding-a-tokenizer.md"


@pytest.fixture
def added(tmp_path, monkeypatch):
    """The example file in a temporary folder that is added to the package's path."""
    code = re.search(r"```python\n(.*?)```", DOC.read_text(), re.S).group(1)
    folder = tmp_path / "tokenizers"
    folder.mkdir()
    (folder / "pca.py").write_text(code)
    monkeypatch.setattr(package, "__path__", [*package.__path__, str(folder)])
    yield "pca"
    TOKENIZERS._classes.pop("pca", None)
    sys.modules.pop("nac_ros.tokenizers.pca", None)


@pytest.fixture
def dataset(tmp_path):
    """A robomimic-style file with five episodes of random walks."""
    path, generator = tmp_path / "walks.hdf5", np.random.default_rng(0)
    with h5py.File(path, "w") as file:
        for k in range(1, 6):
            steps = 0.02 * generator.standard_normal((60, 4)).cumsum(0)
            file.create_dataset(f"data/demo_{k}/actions", data=steps)
    return path


def test_the_file_defines_a_tokenizer_that_keeps_the_contracts(added, tmp_path):
    assert added in list_tokenizers()
    steps = np.random.default_rng(0).standard_normal((300, 32, 7))
    chunks = (0.02 * steps.cumsum(1)).astype(np.float32)
    tokenizer = make_tokenizer(added, relative=[True] * 6 + [False]).fit(chunks, chunks[:, 0])
    tokens = tokenizer.encode(chunks[:5], chunks[:5, 0])
    decoded = tokenizer.decode(tokens, chunks[:5, 0])
    assert tokens.shape == (5, 12) and tokenizer.bits == 120
    assert (decoded - torch.from_numpy(chunks[:5])).square().mean() < 0.2 * chunks.var()
    tokenizer.save_pretrained(tmp_path / "saved")
    again = load_tokenizer(tmp_path / "saved")
    assert torch.equal(again.decode(tokens, chunks[:5, 0]), decoded)
    with pytest.raises(BadTokens, match="1024 at position 1"):
        tokenizer.decode(tokens * 0 + 1024 * (torch.arange(12) == 1), chunks[:5, 0])
    with pytest.raises(BadActions, match="row 0"):
        tokenizer.encode(100 + chunks[:1], chunks[:1, 0])


def test_the_command_line_trains_evaluates_and_compares_it(added, dataset, tmp_path, capsys):
    run, data = str(tmp_path / "run"), ["--data", str(dataset)]
    assert main(["tokenizer", "train", "--tokenizer", added, *data, "--out", run]) == 0
    quick = ["--learnability-steps", "2"]
    assert main(["tokenizer", "eval", run, *data, *quick]) == 0
    compare = ["--tokenizers", added, "fast", "--cache", str(tmp_path / "cache")]
    out = ["--out", str(tmp_path / "bench")]
    assert main(["tokenizer", "bench", *data, *compare, *out, *quick]) == 0
    assert main(["tokenizer", "list"]) == 0
    assert capsys.readouterr().out.count("pca") >= 4
