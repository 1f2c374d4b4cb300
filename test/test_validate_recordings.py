"""`nac data check`, `info` and `repair` on recorded episodes."""

import json
import os

import pytest

pytest.importorskip("mcap")
pytest.importorskip("rosbags")

from test_resampler import PROMPT, write_recording

from nac_ros.cli.main import main
from nac_ros.datasets.mcap import reader, writer
from nac_ros.datasets.mcap.dataset import RecordingDataset
from nac_ros.datasets.mcap.validate import check_recordings
from nac_ros.datasets.mcap.writer import BagWriter


def texts(path):
    return [str(finding) for finding in check_recordings(path)]


def test_a_sound_episode_has_no_findings_and_info_describes_it(tmp_path, capsys):
    write_recording(tmp_path / "a")
    assert texts(tmp_path) == []
    assert main(["data", "check", str(tmp_path)]) == 0
    out = tmp_path / "info.json"
    assert main(["data", "info", str(tmp_path), "--json", str(out)]) == 0
    info = json.loads(out.read_text())
    assert info["episodes"] == 1 and info["tasks"] == [PROMPT] and info["robot"] == "vx300s"
    assert info["cameras"] == {"scene": [96, 96], "wrist": [96, 96]} and info["frames"] > 55
    assert "no findings" in capsys.readouterr().out


def test_every_fault_is_a_finding(tmp_path, capsys):
    write_recording(tmp_path / "a", seconds=3.0, holes=[(1.0, 1.6)], outcome="interrupted")
    write_recording(tmp_path / "b", command=False)
    write_recording(
        tmp_path / "d", holes=[(k / 30 - 0.01, k / 30 + 0.01) for k in range(10, 50, 5)]
    )
    BagWriter(tmp_path / "c", {}).abandon()
    findings = texts(tmp_path)
    assert "dataset: c.partial is unfinished" in findings[0]
    holes = [text for text in findings if "gaps after 1.0 s make 2 episodes of it" in text]
    assert len(holes) == 1 and holes[0].startswith("episode 0: a: ")
    assert any(
        "episode 0: a: it has no verdict, its outcome is 'interrupted'" in t for t in findings
    )
    assert any(
        "frames hold the previous image, because cameras left images out" in text
        for text in findings
    )
    assert any("episode 1: b: it has no guard/command" in text for text in findings)
    assert main(["data", "check", str(tmp_path)]) == 2
    assert "findings, listed above" in capsys.readouterr().err


def test_repair_completes_every_episode_of_a_folder(tmp_path, capsys):
    whole = write_recording(tmp_path / "a")
    truncated = write_recording(tmp_path / "b", seconds=3.0)
    size = (truncated / writer.FILE).stat().st_size
    os.truncate(truncated / writer.FILE, size // 2)
    truncated.rename(tmp_path / "b.partial")
    assert main(["data", "repair", str(tmp_path)]) == 0
    output = capsys.readouterr().out
    assert "messages of 1" in output and "bytes at the end" in output and str(whole) not in output
    left = sorted(path.name for path in tmp_path.iterdir())
    assert left == ["a", "b", "b.damaged"]
    assert [t for t in texts(tmp_path) if "unfinished" in t or "damaged" in t] == []
    assert main(["data", "repair", str(tmp_path)]) == 0
    assert "nothing to repair" in capsys.readouterr().out
    assert main(["data", "repair", str(tmp_path / "nothing")]) == 2
    assert "is not a folder" in capsys.readouterr().err


def test_episodes_are_relabelled_merged_split_and_discarded(tmp_path, capsys):
    first, second = write_recording(tmp_path / "a"), write_recording(tmp_path / "b")
    content = (first / writer.FILE).read_bytes()
    words = ["data", "edit", "relabel", str(first), "--task", "Lift it.", "--outcome", "failure"]
    assert main(words) == 0
    facts = reader.read_metadata(first)
    assert (facts["task"], facts["outcome"], facts["was_task"]) == ("Lift it.", "failure", PROMPT)
    assert (first / writer.FILE).read_bytes() == content
    out = tmp_path / "all"
    assert main(["data", "edit", "merge", str(first), str(second), "--out", str(out)]) == 0
    assert RecordingDataset.open(out).tasks == ["Lift it.", PROMPT]
    assert main(["data", "edit", "split", str(out / "b"), "--at-seconds", "0.8"]) == 0
    lengths = [info.length for info in RecordingDataset.open(out).episodes]
    assert len(lengths) == 3 and 22 <= lengths[1] <= 25 and 34 <= lengths[2] <= 37
    assert sorted(p.name for p in out.iterdir()) == ["a", "b.discarded", "ba", "bb"]
    assert main(["data", "edit", "discard", str(out / "a")]) == 0
    capsys.readouterr()
    assert main(["data", "edit", "split", str(out / "ba"), "--at-seconds", "9"]) == 2
    assert "ba is 0.8 s long, so it cannot be split at 9 s" in capsys.readouterr().err
    assert main(["data", "edit", "merge", str(out / "ba")]) == 2
    assert "merge needs --out" in capsys.readouterr().err
    assert main(["data", "edit", "merge", str(out / "ba"), str(out / "ba"), "--out", "x"]) == 2
    assert "would be overwritten" in capsys.readouterr().err
    assert main(["data", "edit", "discard", str(tmp_path)]) == 2
    assert "is not a finished episode" in capsys.readouterr().err
