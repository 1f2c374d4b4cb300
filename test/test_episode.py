"""Tasks of an episode: one, none, or several with an index per frame."""

import pickle
from dataclasses import replace

import numpy as np
import pytest
from lerobot_folder import write_folder
from test_cli import run

from nac_ros.core.errors import DatasetError
from nac_ros.datasets.episode import Episode, EpisodeInfo
from nac_ros.datasets.frames import load_frames
from nac_ros.datasets.interventions import Interventions
from nac_ros.datasets.lerobot.reader import LeRobotDataset
from nac_ros.datasets.lerobot.schema import OptionalColumns
from nac_ros.datasets.lerobot.writer import DatasetWriter
from nac_ros.datasets.validate import check

TASKS = ("open it", "close it")


def two_task_episode(length: int = 6) -> Episode:
    """An episode whose second half has another task."""
    values = np.arange(2.0 * length, dtype=np.float32).reshape(length, 2)
    return Episode(
        values,
        values + 1,
        TASKS,
        intervention=np.arange(length) >= length // 2,
        task_index=(np.arange(length) >= length // 2).astype(np.int64),
        source="in, episode 3",
    )


def test_a_text_is_one_task_and_no_text_is_an_empty_task():
    values = np.zeros((2, 1), np.float32)
    one, none = Episode(values, values, "do it"), Episode(values, values, ())
    assert (one.task, one.tasks, one.frame_tasks()) == ("do it", ("do it",), ["do it"] * 2)
    assert (none.task, none.tasks, none.frame_tasks()) == ("", (), [""] * 2)
    assert EpisodeInfo(5, "do it") == (5, ("do it",), "")


def test_several_tasks_are_never_reduced_to_the_first():
    for one in (two_task_episode(), EpisodeInfo(6, TASKS, "in, episode 3")):
        with pytest.raises(DatasetError, match=r"in, episode 3 has 2 tasks .*'open it', 'close"):
            _ = one.task
    assert two_task_episode().frame_tasks() == ["open it"] * 3 + ["close it"] * 3
    with pytest.raises(DatasetError, match="2 tasks"):
        replace(two_task_episode(), task_index=None).frame_tasks()


def test_a_slice_has_the_tasks_of_its_frames():
    whole = two_task_episode()
    assert (
        whole.slice_frames(0, 3).task == "open it" and whole.slice_frames(3, 6).task == "close it"
    )
    both = whole.slice_frames(2, 5)
    assert both.tasks == TASKS and both.task_index.tolist() == [0, 1, 1]
    assert len(both) == 3 and both.intervention.tolist() == [False, True, True]
    np.testing.assert_array_equal(both.proprio, whole.proprio[2:5])


def test_an_episode_info_can_be_pickled():
    info = EpisodeInfo(6, TASKS, "in, episode 3")
    assert pickle.loads(pickle.dumps(info)) == info


def test_an_episode_with_two_tasks_is_split_into_two_with_one_each(tmp_path, capsys):
    root = write_folder(
        tmp_path / "in",
        tasks=TASKS,
        task_index=lambda episode, length: (np.arange(length) >= 3).astype(int),
    )
    code, _, _ = run(capsys, "data", "edit", "split", root, "--episode", 1, "--at-seconds", 0.1)
    dataset = LeRobotDataset.open(root)
    assert code == 0 and check(dataset) == []
    assert [info.tasks for info in dataset.episodes] == [TASKS, TASKS[:1], TASKS[1:], TASKS]
    assert [dataset.episode(k).task for k in (1, 2)] == list(TASKS)


def test_an_intervention_has_the_tasks_of_its_frames(tmp_path):
    writer = DatasetWriter.create_or_resume(
        tmp_path,
        fps=30,
        robot_type="",
        names="ab",
        cameras={},
        optional=optional_columns_of(two_task_episode()),
    )
    writer.add_episode(two_task_episode())
    writer.close()
    views = Interventions(LeRobotDataset.open(tmp_path))
    assert views.episode(0).task == "close it" and len(views.episode(0)) == 3


def optional_columns_of(episode: Episode) -> OptionalColumns:
    return OptionalColumns(interventions=episode.intervention is not None)


def test_training_rejects_several_tasks_per_episode(tmp_path):
    root = write_folder(
        tmp_path / "in", tasks=TASKS, task_index=lambda episode, length: np.arange(length) % 2
    )
    with pytest.raises(DatasetError, match="episode 0 has 2 tasks"):
        load_frames([root], [])


def test_an_episode_with_several_tasks_but_no_task_index_is_not_written(tmp_path):
    writer = DatasetWriter.create_or_resume(
        tmp_path,
        fps=30,
        robot_type="",
        names="ab",
        cameras={},
        optional=optional_columns_of(two_task_episode()),
    )
    with pytest.raises(DatasetError, match="2 tasks"):
        writer.add_episode(replace(two_task_episode(), task_index=None))
    assert writer.n_episodes == 0
    writer.close()
