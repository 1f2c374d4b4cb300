"""The comparison of `make interop` finds differences and needs nothing of this package."""

import importlib.util
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from test_dataset_conversion import write_hdf5_source
from test_mcap_exporter import annotated_episode, check_progress, moving_episode, robot

from nac_ros.datasets.convert import ConversionConfig
from nac_ros.datasets.mcap.exporter import to_mcap

ROOT = Path(__file__).resolve().parent.parent
assert robot is not None  # the fixture


def _load(name):
    spec = importlib.util.spec_from_file_location(name, ROOT / "tools" / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


interop, reader = _load("interop"), _load("interop_reader")


def test_the_reader_imports_nothing_of_this_package():
    code = (
        "import runpy, sys\n"
        "sys.modules['nac_ros'] = None\n"
        "runpy.run_path(sys.argv[1], run_name='reader')\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, ROOT / "tools/interop_reader.py"], capture_output=True
    )
    assert done.returncode == 0, done.stderr


def test_a_changed_value_of_a_recording_is_a_difference(tmp_path, robot):
    episode = annotated_episode(0, mark=[(5, 12)])
    source = write_hdf5_source(tmp_path / "a.hdf5", [episode], fps=30, units=("rad",) * 3)
    to_mcap([source], tmp_path / "mcap", ConversionConfig(robot=robot()), check_progress)
    (folder,) = (path for path in (tmp_path / "mcap").iterdir() if path.is_dir())
    topics = {}
    for topic, message in reader.by_rosbags(folder):
        topics.setdefault(topic, []).append(message)
    written = replace(episode, tasks=source.episode(0).task)
    interop.expect(tmp_path / "same", [written])
    (wanted,) = reader.expected(tmp_path / "same")
    assert reader._compare_recording("a", topics, wanted) == np.inf
    for key, position in (("actions", (3, 1)), ("states", (0, 0)), ("stamps", 7)):
        kept = wanted.values[key].copy()
        wanted.values[key][position] += 1
        with pytest.raises(reader.Difference, match="a "):
            reader._compare_recording("a", topics, wanted)
        wanted.values[key][:] = kept
    wanted.values["image_scene"][4] //= 2
    with pytest.raises(reader.Difference, match="dB"):
        reader._compare_recording("a", topics, wanted)


def test_a_slice_of_an_episode_equals_the_result_of_an_edit():
    whole = replace(moving_episode(0), stamps_ns=np.arange(40), intervention=np.zeros(40, bool))
    piece = interop.part(whole, 10, 15)
    assert len(piece) == 5 and piece.stamps_ns.tolist() == [10, 11, 12, 13, 14]
    np.testing.assert_array_equal(piece.images["wrist"], whole.images["wrist"][10:15])
