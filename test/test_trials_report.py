"""Results and report of a run with made-up verdicts."""

import json
import re
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing

import numpy as np
import pytest
from fake_trial_runs import log_verdicts, make_protocol
from scipy.stats import barnard_exact, binomtest

from nac_ros.core.image_codec import encode_jpeg
from nac_ros.evaluation.published_results import TABLE_6
from nac_ros.stats.sequential import run_betting_test
from nac_ros.trials import results as trial_results
from nac_ros.trials import run as trial_run
from nac_ros.trials.protocol import StoppingRule
from nac_ros.trials.report import write_report
from nac_ros.trials.results import compute_results, paired_outcomes
from nac_ros.trials.run import TrialRun, Verdict


def better(task, trial, method):
    """nac fails on every fourth scene, fast succeeds on every fourth."""
    return trial % 4 > 0 if method == "nac" else trial % 4 == 3


@pytest.fixture(scope="module")
def run(tmp_path_factory, tiny_bundle):
    """A finished run with every measurement."""
    folder = tmp_path_factory.mktemp("runs") / "one"
    made = make_protocol(tiny_bundle, rubric={"marker": ("grasped", "lifted", "in the bin")})
    with closing(TrialRun.create_or_resume(folder, made)) as run:
        log_verdicts(
            run,
            better,
            steps=200,
            seconds=6.5,
            clips=4,
            transition_jumps=(0.01, 0.02),
            jerk=0.1,
            sparc=-3.0,
            chunk_ms=(80.0, 90.0),
            holds={"no_chunk": 1},
            film_strip="film_strips/one.jpg",
        )
        run.unblind()
    (folder / "film_strips").mkdir()
    (folder / "film_strips/one.jpg").write_bytes(encode_jpeg(np.zeros((8, 48, 3), np.uint8), 80))
    return TrialRun.read(folder)


def test_the_results_have_the_documented_keys_and_the_numbers_of_the_log(run):
    results = compute_results(run)
    json.dumps(results, allow_nan=False)
    row = results["methods"]["nac"]["weighing"]
    assert (row["trials"], row["successes"]) == (12, 9)
    exact = binomtest(9, 12).proportion_ci(method="exact")
    assert row["clopper_pearson95"] == pytest.approx(list(exact))
    score = binomtest(9, 12).proportion_ci(method="wilson")
    assert row["wilson95"] == pytest.approx(list(score))
    assert row["failures"] == {"it <fell>": 3} and row["aborted"] == row["invalid"] == 0
    assert row["seconds_to_success"] == {"p50": 6.5, "p99": 6.5, "n": 9}
    assert row["guard_clips"] == {"mean": 4.0, "n": 12} and row["sparc"]["p50"] == -3.0
    assert row["chunk_ms"]["p50"] == pytest.approx(85) and row["holds"] == {"no_chunk": 12}
    assert list(results["methods"]) == ["nac", "fast"]
    assert results["finished"] and not results["blind"]
    assert results["published"]["marker"] == TABLE_6["marker"]


def test_the_tests_use_the_counts_and_the_shared_scenes(run):
    tests = compute_results(run)["tests"]
    assert [(row["methods"], row["task"]) for row in tests] == [
        (["nac", "fast"], "weighing"),
        (["nac", "fast"], "marker"),
        (["nac", "fast"], "all"),
    ]
    one, _, pooled = tests
    expected = barnard_exact([[9, 3], [3, 9]]).pvalue
    assert one["barnard_p"] == pytest.approx(expected)
    assert one["barnard_holm_p"] == pytest.approx(2 * expected)
    assert (one["first_only"], one["second_only"], one["shared"]) == (6, 0, 12)
    assert one["difference"] == pytest.approx(0.5) and one["difference95"][0] > 0
    assert one["mcnemar_p"] == pytest.approx(2 * 0.5**6)
    assert one["anytime_p"] == pytest.approx(7 / 2**6)
    assert pooled["counts"] == [[18, 24], [6, 24]] and pooled["mcnemar_p"] < 0.001
    assert pooled["stratified_p"] < one["barnard_p"] and pooled["anytime_p"] < 0.01


def test_methods_that_differ_have_different_letters(run):
    shown = compute_results(run)["letters"]
    assert shown["all"] == {"nac": "a", "fast": "b"}
    assert shown["weighing"] == {"nac": "a", "fast": "b"}


def test_the_page_contains_all_numbers_and_images(run):
    path, found = write_report(run)
    page = path.read_text()
    assert json.loads((run.folder / "report.json").read_text()) == json.loads(json.dumps(found))
    assert not re.findall(r"(?:src|href)=\"(?!data:)", page)
    assert page.count("data:image/jpeg;base64,") == 8  # success and failure, 2 methods x 2 tasks
    assert page.count("data:image/png;base64,") == 4
    for text in ("<b>9/12</b>", "18 of 24", "it &lt;fell&gt;", "SPARC", run.sha256):
        assert text in page, text
    assert "it <fell>" not in page


def test_the_page_of_an_unfinished_run_is_blind_and_says_which_test_is_valid(
    tmp_path, tiny_bundle
):
    made = make_protocol(tiny_bundle, methods=dict.fromkeys(("mine", "theirs"), str(tiny_bundle)))
    with closing(TrialRun.create_or_resume(tmp_path / "run", made)) as run:
        path, found = write_report(run)
        assert "There is no verdict yet" in path.read_text()
        for slot in list(run.slots)[:7]:
            run.log_verdict(slot, Verdict(outcome="success"))
        path, found = write_report(run)
    page = path.read_text()
    assert set(found["methods"]) == set(run.codes.values()) and found["blind"]
    assert list(found["methods"]) == sorted(run.codes.values())
    assert not found["finished"] and "The run is not finished: 7 verdicts" in page
    assert "mine" not in page and "theirs" not in page


def test_the_page_shows_stopped_tasks_and_invalid_trials(tmp_path, tiny_bundle):
    made = make_protocol(
        tiny_bundle, stopping=StoppingRule(rule="sequential", pair=("nac", "fast"))
    )
    with closing(TrialRun.create_or_resume(tmp_path / "run", made)) as run:
        run.log_verdict(run.slots[0], Verdict(outcome="invalid", reason="the light failed"))
        log_verdicts(run, lambda task, trial, method: method == "nac")
        run.unblind()
        path, found = write_report(run)
    assert found["stopped_after"] == {"weighing": 9, "marker": 9} and found["finished"]
    assert found["methods"]["nac"]["marker"]["trials"] == 9
    invalid = [rows["weighing"]["invalid"] for rows in found["methods"].values()]
    assert sorted(invalid) == [0, 1]
    assert "ended marker after 9 trials" in path.read_text()
    assert "invalid: repeated, not counted" in path.read_text()


def test_the_page_says_which_p_to_quote_for_a_stopped_task(tmp_path, tiny_bundle):
    for rule in (StoppingRule(), StoppingRule(rule="sequential", pair=("nac", "fast"))):
        with closing(
            TrialRun.create_or_resume(
                tmp_path / rule.rule, make_protocol(tiny_bundle, stopping=rule)
            )
        ) as run:
            log_verdicts(run, lambda task, trial, method: method == "nac")
            run.unblind()
            page = write_report(run)[0].read_text()
        assert ("quote the p of `any time`" in page) == (rule.rule == "sequential")


def test_the_page_says_that_a_run_was_unblinded_early(tmp_path, tiny_bundle):
    with closing(TrialRun.create_or_resume(tmp_path / "run", make_protocol(tiny_bundle))) as run:
        for slot in run.slots[:7]:
            run.log_verdict(slot, Verdict(outcome="aborted", reason="the arm shook"))
        run.unblind()
        page = write_report(run)[0].read_text()
    assert (
        "not finished" not in page and "ended by unblinding it: 7 verdicts, and 48 trials" in page
    )
    assert "<td>of these, aborted by the operator</td>" in page  # after their reasons


def test_the_page_says_that_the_first_success_has_no_film_strip(tmp_path, tiny_bundle):
    with closing(
        TrialRun.create_or_resume(tmp_path / "run", make_protocol(tiny_bundle, tasks=("marker",)))
    ) as run:
        (run.folder / "one.jpg").write_bytes(encode_jpeg(np.zeros((8, 48, 3), np.uint8), 80))
        for slot in run.slots:
            film_strip = "one.jpg" if slot.trial > 2 else "lost.jpg"
            run.log_verdict(slot, Verdict(outcome="success", film_strip=film_strip))
        page = write_report(run)[0].read_text()
    assert (
        page.count("first success with a film strip, trial 3") == 4
    )  # two, and in their alt texts


def test_one_method_has_no_letters_and_invalid_verdicts_do_not_count_as_trials(
    tmp_path, tiny_bundle
):
    alone = make_protocol(tiny_bundle, tasks=("marker",), methods={"nac": str(tiny_bundle)})
    with closing(TrialRun.create_or_resume(tmp_path / "run", alone)) as run:
        run.log_verdict(run.slots[0], Verdict(outcome="invalid", reason="the cable was caught"))
        page = write_report(run)[0].read_text()
        assert "All verdicts are `invalid`" in page and "Measurements" not in page
        log_verdicts(run, better)
        page = write_report(run)[0].read_text()
    assert "share a letter" not in page and "over 1 task<" in page


def test_the_sequential_test_over_all_tasks_waits_for_the_slow_worker(tmp_path, tiny_bundle):
    with closing(TrialRun.create_or_resume(tmp_path / "run", make_protocol(tiny_bundle))) as run:
        first, second = sorted(run.codes.values())
        late = next(s for s in run.slots if (s.trial, s.code) == (3, first))
        for slot in run.slots:
            if slot != late:
                won = slot.code == first
                run.log_verdict(slot, Verdict(outcome="success" if won else "failure"))
        assert paired_outcomes(run, first, second) == [(True, False)] * 3
        pooled = compute_results(run)["tests"][-1]
        assert pooled["anytime_p"] == pytest.approx(4 / 2**3) and pooled["shared"] == 23
        run.log_verdict(late, Verdict(outcome="failure"))
        assert len(paired_outcomes(run, first, second)) == 24


def test_the_stopping_rule_is_evaluated_once_per_verdict(tmp_path, tiny_bundle, monkeypatch):
    rule = StoppingRule(rule="sequential", pair=("nac", "fast"))
    calls = {trial_results: [], trial_run: []}
    with closing(
        TrialRun.create_or_resume(tmp_path / "run", make_protocol(tiny_bundle, stopping=rule))
    ) as run:
        log_verdicts(run, better)
        for module, called in calls.items():
            monkeypatch.setattr(
                module,
                "run_betting_test",
                lambda pairs, called=called: called.append(pairs) or run_betting_test(pairs),
            )
        trial_results.compute_results(run)
    assert len(calls[trial_run]) <= 2  # the rule on two tasks; per trial it would be hundreds
    assert len(calls[trial_results]) == 3  # the test on two tasks and over both


def test_concurrent_reports_do_not_disturb_each_other(tmp_path, tiny_bundle):
    TrialRun.create_or_resume(tmp_path / "run", make_protocol(tiny_bundle)).close()
    runs = [TrialRun.read(tmp_path / "run") for _ in range(8)]
    with ThreadPoolExecutor(len(runs)) as pool:
        assert len({path for path, _ in pool.map(write_report, runs)}) == 1


def test_a_rubric_is_the_mean_share_of_steps_with_an_interval(tmp_path, tiny_bundle):
    made = make_protocol(
        tiny_bundle, rubric={"marker": ("grasped", "in the bin")}, tasks=("marker",)
    )
    with closing(TrialRun.create_or_resume(tmp_path / "run", made)) as run:
        for slot in run.slots:
            run.log_verdict(slot, Verdict(outcome="failure", reason="late", rubric=slot.trial % 2))
        row = compute_results(run)["methods"][run.slots[0].code]["marker"]["rubric"]
    assert row["mean"] == pytest.approx(0.25) and row["n"] == 12
    assert 0.05 < row["mean95"][0] < 0.25 < row["mean95"][1] < 0.45


def test_table_6_has_the_means_of_table_2():
    means = {m: np.mean([rates[m] for rates in TABLE_6.values()]) for m in TABLE_6["marker"]}
    assert means == {
        "bin": 6.25,
        "diffusion": 22.5,
        "fast": 40,
        "vqvla": 31.25,
        "oat": 40,
        "nac": 50,
    }
