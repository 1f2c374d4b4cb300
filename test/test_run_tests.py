"""`make test` runs both parts, sums up their results, and fails if one of them does."""

import sys

import pytest

from nac_ros.core.config import config_dir

sys.path.insert(0, str(config_dir().parent / "tools"))

import run_tests

PASSING = "def test_{0}():\n    pass\n"
FAILING = "import pytest\n@pytest.mark.alone\ndef test_failing():\n    assert 1 == 2\n"


def last_line(out):
    return [line for line in out.splitlines() if line][-1]


def test_both_parts_run_and_their_results_are_summed(tmp_path, capfd):
    (tmp_path / "test_one.py").write_text(PASSING.format("one") + PASSING.format("two"))
    assert run_tests.main([str(tmp_path)]) == 0  # no test is marked `alone`
    assert last_line(capfd.readouterr().out).startswith("2 passed in ")
    (tmp_path / "test_other.py").write_text(FAILING)
    assert run_tests.main([str(tmp_path)]) == 1
    out = capfd.readouterr().out
    assert last_line(out).startswith("1 failed, 2 passed")
    assert out.partition("== both")[2].count("FAILED") == 1


FLAKY = """import pathlib, pytest
@pytest.mark.alone
@pytest.mark.parametrize("number", range({n}))
def test_late(number, mark=pathlib.Path(__file__).parent):
    path = mark / f"{{number}}.ran"
    seen = path.exists()
    path.touch()
    assert seen
"""


def test_a_failed_test_of_processes_runs_once_more_and_is_named(tmp_path, capfd):
    (tmp_path / "test_flaky.py").write_text(FLAKY.format(n=1))
    assert run_tests.main([str(tmp_path)]) == 0
    out = capfd.readouterr().out
    assert last_line(out).startswith("1 passed") and "failed" not in last_line(out)
    assert "passed only when repeated: FAILED" in out and "test_late[0]" in out


def test_many_failed_tests_are_not_repeated(tmp_path, capfd):
    n = run_tests.MAX_REPEATED + 1
    (tmp_path / "test_flaky.py").write_text(FLAKY.format(n=n))
    assert run_tests.main([str(tmp_path)]) == 1
    assert last_line(capfd.readouterr().out).startswith(f"{n} failed")


def test_it_fails_if_there_is_no_test(tmp_path, capfd):
    assert run_tests.main([str(tmp_path)]) == run_tests.NO_TESTS
    assert last_line(capfd.readouterr().out).startswith("no tests ran in ")


def test_it_fails_if_a_file_cannot_be_collected(tmp_path, capfd):
    (tmp_path / "test_one.py").write_text("import no_such_thing\n")
    assert run_tests.main([str(tmp_path)]) != 0
    assert "error" in last_line(capfd.readouterr().out)


@pytest.mark.parametrize(
    ("line", "found"),
    [
        (
            "1 failed, 2693 passed, 21 skipped, 14 deselected, 2 warnings in 2002.40s (0:33:22)",
            {"failed": 1, "passed": 2693, "skipped": 21, "warning": 2},
        ),
        ("1 passed, 1 error, 1 warning in 3.2s", {"passed": 1, "error": 1, "warning": 1}),
        ("no tests ran in 0.01s", {}),
    ],
)
def test_the_last_line_of_pytest_is_parsed(line, found):
    assert run_tests.count_results(["dots", line, ""]) == found
