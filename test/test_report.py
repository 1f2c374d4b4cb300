"""The report of a run: all numbers and plots in one self-contained file."""

import base64
import re
import struct

import numpy as np
import pytest

from nac_ros.core.errors import DatasetError
from nac_ros.reporting.run_report import write_run_report
from nac_ros.reporting.trial_trace import TimeSpan, TrialTrace

RESULT = {
    "bundle": "models/default",
    "seed": 3,
    "tasks": {
        "marker": {"trials": 5, "successes": 4},
        "weighing": {"trials": 5, "successes": 5},
    },
    "chunk_ms": {"p50": 71.25, "p99": 142.0},
    "decode_ms": {"p50": 4.2, "p99": 7.0},
    "command_interval_error_ms": {"p50": 0.4, "p99": 2.7, "max": 9.0},
    "idle_interval_error_ms": {"p50": 0.3, "p99": 2.2, "max": 7.0},
    "holds": {"chunk_late": 2, "start": 10},
}


def make_trace(trial=0, dims=3, samples=90, **changes):
    rng = np.random.default_rng(trial)
    times = 50 + np.arange(samples) / 30
    commanded = np.cumsum(rng.normal(0, 0.01, (samples, dims)), axis=0)
    values = {
        "task": "marker",
        "trial": trial,
        "outcome": "success",
        "reason": "The marker lies in the bin.",
        "names": tuple(f"joint_{i}" for i in range(dims)),
        "units": ("rad",) * (dims - 1) + ("m",),
        "times": times,
        "commanded": commanded,
        "measured": commanded - 0.02,
        "chunk_stamps": times[:80:16],
        "chunk_latency_s": rng.uniform(0.05, 0.1, 5),
        "chunk_actions": rng.normal(size=(5, 32, dims)),
        "command_interval_s": rng.normal(0.01, 0.001, 300),
        "holds": (TimeSpan(50.5, 50.8, "chunk_late"),),
    }
    return TrialTrace(**(values | changes))


def plots(page):
    return [base64.b64decode(data) for data in re.findall(r"data:image/png;base64,([^\"]+)", page)]


def test_the_page_has_all_numbers_with_n_and_interval_and_all_plots(tmp_path):
    traces = [make_trace(0), make_trace(1, outcome="failure", reason="Dropped <outside>.")]
    path = write_run_report(
        tmp_path / "report.html",
        RESULT,
        traces,
        title="Demo run",
        video="video.mp4",
        command_period_s=0.01,
        chunk_budget_s=16 / 30,
        idle_interval_s=np.full(50, 0.0101),
    )
    page = path.read_text()
    for text in ("4 of 5", "38 to 96 %", "71.2 ms", "p99; idle machine 2.2 ms", "n = 10 trials"):
        assert text in page
    assert "n = 10 chunks" in page and "n = 600 commands" in page and "n = 12 holds" in page
    assert "Dropped &lt;outside&gt;." in page and "<outside>" not in page
    assert '<video controls muted src="video.mp4">' in page
    assert len(plots(page)) == 4 + len(traces)


def test_the_page_fetches_nothing(tmp_path):
    page = write_run_report(tmp_path / "report.html", RESULT, [make_trace()]).read_text()
    assert not re.search(r"(src|href)=\"(https?:|//)", page) and "@import" not in page


def test_plots_are_large_png_files_and_not_blank(tmp_path):
    cv2 = pytest.importorskip("cv2")
    page = write_run_report(tmp_path / "r.html", RESULT, [make_trace()]).read_text()
    for data in plots(page):
        width, height = struct.unpack(">II", data[16:24])
        image = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)
        assert width >= 1200 and height >= 200 and len(np.unique(image.reshape(-1, 3), axis=0)) > 5


def test_a_result_without_data_still_makes_a_page(tmp_path):
    result = {"tasks": {"marker": {"trials": 0, "successes": 0}}}
    bare = make_trace(
        chunk_stamps=np.zeros(0),
        chunk_latency_s=np.zeros(0),
        chunk_actions=np.zeros(0),
        command_interval_s=np.zeros(0),
        holds=(),
    )
    page = write_run_report(tmp_path / "report.html", result, [bare]).read_text()
    assert len(plots(page)) == 1 and "<video" not in page
    assert "result.json" in write_run_report(tmp_path / "empty.html", {}).read_text()


@pytest.mark.parametrize("dims", [1, 2, 6, 14])
def test_any_number_of_joints_is_plotted(tmp_path, dims):
    page = write_run_report(tmp_path / "r.html", {}, [make_trace(dims=dims)]).read_text()
    assert len(plots(page)) == 2  # latency and joints


def test_a_saved_trace_is_loaded_unchanged(tmp_path):
    trace = make_trace(2)
    trace.save(tmp_path / "trial.npz")
    loaded = TrialTrace.load(tmp_path / "trial.npz")
    for name, value in vars(trace).items():
        np.testing.assert_array_equal(getattr(loaded, name), value)
    assert loaded.holds[0].reason == "chunk_late" and loaded.duration_s == pytest.approx(89 / 30)


def test_other_files_and_arrays_of_a_wrong_shape_are_rejected(tmp_path):
    (tmp_path / "trial.npz").write_bytes(b"no")
    with pytest.raises(DatasetError, match="no trial trace"):
        TrialTrace.load(tmp_path / "trial.npz")
    with pytest.raises(DatasetError, match=r"measured must be \(90, 3\)"):
        make_trace(measured=np.zeros((90, 2)))
