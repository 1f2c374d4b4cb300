"""`make test` runs both parts, adds them up, and fails when either does."""

import sys

import pytest

from nac_ros.core.config import config_dir

sys.path.insert(0, str(config_dir().parent / "tools"))

import run_tests

SOUND = "def test_{0}():\n    pass\n"
BROKEN = "import pytest\n@pytest.mark.alone\ndef test_broken():\n    assert 1 == 2\n"


def closing(out):
    return [line for line in out.splitlines() if line][-1]


def test_both_parts_are_run_and_added_up(tmp_path, capfd):
    (tmp_path / "test_one.py").write_text(SOUND.format("one") + SOUND.format("two"))
    assert run_tests.main([str(tmp_path)]) == 0  # nothing that is to run alone is no failure
    assert closing(capfd.readouterr().out).startswith("2 passed in ")
    (tmp_path / "test_other.py").write_text(BROKEN)
    assert run_tests.main([str(tmp_path)]) == 1
    out = capfd.readouterr().out
    assert closing(out).startswith("1 failed, 2 passed")
    assert out.partition("== both")[2].count("FAILED") == 1


def test_no_test_at_all_is_a_failure(tmp_path, capfd):
    assert run_tests.main([str(tmp_path)]) == run_tests.NO_TESTS
    assert closing(capfd.readouterr().out).startswith("no tests ran in ")


def test_a_file_that_cannot_be_collected_fails(tmp_path, capfd):
    (tmp_path / "test_one.py").write_text("import no_such_thing\n")
    assert run_tests.main([str(tmp_path)]) != 0
    assert "error" in closing(capfd.readouterr().out)


@pytest.mark.parametrize(
    ("line", "found"),
    [
        ("1 failed, 2693 passed, 21 skipped, 14 deselected, 2 warnings in 2002.40s (0:33:22)",
         {"failed": 1, "passed": 2693, "skipped": 21, "warning": 2}),
        ("1 passed, 1 error, 1 warning in 3.2s", {"passed": 1, "error": 1, "warning": 1}),
        ("no tests ran in 0.01s", {}),
    ],
)  # fmt: skip
def test_the_closing_line_is_counted(line, found):
    assert run_tests.counted(["dots", line, ""]) == found
