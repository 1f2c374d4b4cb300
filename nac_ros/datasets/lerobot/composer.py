"""Composes a LeRobot v3 folder from episode slices of other folders; reuses unchanged files."""

import os
import shutil
from collections.abc import Mapping, Sequence
from functools import cached_property, lru_cache, partial
from itertools import groupby
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa

from nac_ros.core import files as file_io
from nac_ros.core.errors import DatasetError
from nac_ros.datasets.compatibility import check_compatible
from nac_ros.datasets.episode import Episode, Progress
from nac_ros.datasets.lerobot import layout, metadata, schema, statistics, tables
from nac_ros.datasets.lerobot.info import DATA_PATHS, VIDEO_PATHS, frame_rate, read_info
from nac_ros.datasets.lerobot.layout import OUTCOME, SUCCESS, VERSION, FileNumber
from nac_ros.datasets.lerobot.metadata import OUTCOMES, VIDEO_COLUMNS
from nac_ros.datasets.lerobot.reader import LeRobotDataset
from nac_ros.datasets.lerobot.statistics import DatasetStatistics, ImageHistogram

INDEX_DTYPES = {  # columns of a data file that depend on the episode's place in the dataset
    "episode_index": "int64",
    "index": "int64",
    "frame_index": "int64",
    "timestamp": "float64",
    "task_index": "int64",
    SUCCESS: "bool",
}
ORIGIN_FILES = ("convert.json", "generate.json", "edit.json")  # how a folder was made
# Files in meta that are written anew or describe one folder only; all others are taken over.
OWN_META = {
    "info.json",
    "stats.json",
    "tasks.parquet",
    statistics.HISTOGRAM_FILE,
    ".lock",
    *ORIGIN_FILES,
}


class EpisodeSlice(NamedTuple):
    """Frames [first, end) of an episode; source: index of its dataset.

    task, outcome: new values, None to keep the old ones
    """

    source: int
    episode: int
    first: int
    end: int
    task: str | None = None
    outcome: str | None = None


class SourceDataset:
    """A v3 folder with its whole episode table; raises DatasetError for any other."""

    def __init__(self, root: Path):
        self.root, self.info = root, read_info(root)
        if self.info["codebase_version"] != VERSION:
            raise DatasetError(
                f"{root} is a LeRobot folder of {self.info['codebase_version']}, which cannot be "
                "edited; convert it to v3.0 with `nac data convert --to lerobot`"
            )
        self.dataset = LeRobotDataset.open(root)
        if not self.dataset.episodes:
            raise DatasetError(f"{root} holds no episode yet")
        self.tasks = metadata.read_tasks(root)
        files = layout.episode_files(root)
        self.rows = [row for path in files for row in metadata.read_episode_rows(path)]
        for row in self.rows:
            where = f"{root}, episode {row['episode_index']}"
            for key in metadata.video_keys(self.info):
                for end in ("from", "to"):
                    metadata.video_seconds(row, key, end, where)

    def slices(self, source: int) -> list[EpisodeSlice]:
        """All whole episodes; source: number of this dataset."""
        return [EpisodeSlice(source, i, 0, row["length"]) for i, row in enumerate(self.rows)]

    def is_whole(self, part: EpisodeSlice) -> bool:
        return (part.first, part.end) == (0, self.rows[part.episode]["length"])

    def episode(self, part: EpisodeSlice) -> Episode:
        """The frames of a slice, without images."""
        whole = self.dataset.episode(part.episode, images=False)
        return whole.slice_frames(part.first, part.end)

    def histograms(self, part: EpisodeSlice) -> dict[str, ImageHistogram]:
        """Image feature -> histogram of the images of a slice."""
        dataset, kept = self.dataset, slice(part.first, part.end)
        return {
            dataset.image_keys[camera]: statistics.image_histogram(
                dataset.images(part.episode, camera)[kept]
            )
            for camera in dataset.cameras
        }


class DatasetComposer:
    """Writes slices of the sources as one dataset."""

    def __init__(self, sources: Sequence[SourceDataset], slices: Sequence[EpisodeSlice]):
        """Raises DatasetError if the sources cannot be one dataset."""
        self.sources, self.slices, first = sources, slices, sources[0]
        for other in sources[1:]:
            _check_joinable(first, other)
        self.features: dict[str, Any] = first.info["features"]
        self.fps = frame_rate(first.info)
        self._video_keys = metadata.video_keys(first.info)
        self._read_numbers = lru_cache(maxsize=1)(
            partial(statistics.read_numbers, features=self.features)
        )
        lengths = [part.end - part.first for part in slices]
        self.starts = [int(n) for n in np.cumsum([0, *lengths])]

    @cached_property
    def tasks(self) -> list[str]:
        """The tasks in use, in the order of the first source, so that few numbers change; a new
        task takes the place of one no longer in use."""
        used = dict.fromkeys(task for part in self.slices for task in self._tasks_of(part))
        known = self.sources[0].tasks.values()
        table = [task if task in used else None for task in known]
        for task in used:
            if task not in table:
                free = table.index(None) if None in table else len(table)
                table[free : free + 1] = [task]
        return [task for task in table if task is not None]

    def write(self, out: Path, progress: Progress) -> None:
        """Writes the new folder `out`, except the file that records its origin.

        progress: called with (data files done, data files in all)
        """
        meta = out / "meta"
        meta.mkdir(parents=True)
        layout.write_parquet(out / metadata.TASKS, layout.tasks_table(self.tasks))
        runs = [list(run) for _, run in groupby(enumerate(self.slices), self._origin)]
        numbers: dict[int, FileNumber] = {}
        for done, run in enumerate(runs):
            number = FileNumber.nth(done)
            self._write_data(number.path(out / "data"), run)
            numbers |= {index: number for index, _ in run}
            progress(done + 1, len(runs))
        videos = self._link_videos(out)
        self._write_info(meta)
        rows = [self._episode_row(out, i, numbers[i], videos[i]) for i in range(len(self.slices))]
        layout.write_parquet(FileNumber(0, 0).path(meta / "episodes"), _episode_table(rows))
        self._write_histograms(meta)
        files = [number.path(out / "data") for number in dict.fromkeys(numbers.values())]
        total = DatasetStatistics.restore(out, read_info(out), files, len(self.slices))
        total.write(meta)
        _link_other_files(self.sources[0].root, out)

    def _tasks_of(self, part: EpisodeSlice) -> Sequence[str]:
        source = self.sources[part.source]
        if part.task is not None:
            return [part.task]
        if source.is_whole(part):
            return source.rows[part.episode]["tasks"]
        return source.episode(part).tasks

    def _origin(self, numbered: tuple[int, EpisodeSlice]) -> tuple[int, Path]:
        """Source and data file of a slice."""
        part = numbered[1]
        dataset = self.sources[part.source].dataset
        return part.source, dataset.location(part.episode).data_file

    def _write_data(self, path: Path, run: Sequence[tuple[int, EpisodeSlice]]) -> None:
        """Writes the slices of one data file, or links that file if nothing in it changes."""
        number, origin = self._origin(run[0])
        table = tables.read_table(origin, [key for key in INDEX_DTYPES if key in self.features])
        before = {
            key: tables.read_scalars(table[key], INDEX_DTYPES[key], f"{origin}: {key}")
            for key in table.column_names
        }
        kept, parts = [], []
        for index, part in run:
            start = self.sources[number].dataset.rows(part.episode).start
            kept.append(slice(start + part.first, start + part.end))
            old = {key: values[kept[-1]] for key, values in before.items()}
            parts.append(self._renumber(index, part, old))
        after = {key: np.concatenate([part[key] for part in parts]) for key in before}
        if all(np.array_equal(before[key], after[key]) for key in before):
            return _link(origin, path)
        whole = tables.read_table(origin)
        table = pa.concat_tables([whole[rows] for rows in kept])
        for key, values in after.items():
            column, field = table.schema.get_field_index(key), table.schema.field(key)
            array = pa.array(values)
            if pa.types.is_primitive(field.type):
                array = array.cast(field.type)
            table = table.set_column(column, field.with_type(array.type), array)
        layout.write_parquet(path, table)

    def _renumber(
        self, index: int, part: EpisodeSlice, old: Mapping[str, np.ndarray]
    ) -> dict[str, np.ndarray]:
        """New index columns of a slice that becomes episode `index`."""
        source, steps = self.sources[part.source], np.arange(part.end - part.first)
        new = {**old, "episode_index": np.full(len(steps), index)}
        new["index"] = self.starts[index] + steps
        if "task_index" in old:
            codes, which = np.unique(old["task_index"], return_inverse=True)
            numbers = [self._task_number(code, part) for code in codes.tolist()]
            new["task_index"] = np.array(numbers, np.int64)[which]
        if not source.is_whole(part):
            new["frame_index"] = steps
            new["timestamp"] = (steps / self.fps).astype(np.float32)
        if SUCCESS in old and (part.outcome is not None or not source.is_whole(part)):
            outcome = part.outcome
            success = source.episode(part).success if outcome is None else OUTCOMES[outcome]
            new[SUCCESS] = (steps == len(steps) - 1) & bool(success)
        return new

    def _task_number(self, number: int, part: EpisodeSlice) -> int:
        """New task_index; raises DatasetError if the text is not in both task tables."""
        source = self.sources[part.source]
        where = f"{source.root}, episode {part.episode}"
        if part.task is None and number not in source.tasks:
            raise DatasetError(
                f"{where}: task_index {number} is not in the table of tasks; copy the folder again"
            )
        text = source.tasks[number] if part.task is None else part.task
        if text not in self.tasks:
            raise DatasetError(
                f"{where}: its frames have the task '{text}', which meta/episodes does not list; "
                "give it one with `nac data edit relabel --task`"
            )
        return self.tasks.index(text)

    def _link_videos(self, out: Path) -> list[dict[str, Any]]:
        """Links the videos; returns the video columns of each episode's row."""
        columns: list[dict[str, Any]] = [{} for _ in self.slices]
        for key in self._video_keys:
            linked: dict[tuple[int, Path], FileNumber] = {}
            for part, row in zip(self.slices, columns):
                source = self.sources[part.source]
                video = source.dataset.video_segment(part.episode, key).path
                if (part.source, video) not in linked:
                    number = linked[part.source, video] = FileNumber.nth(len(linked))
                    _link(video, number.path(out / "videos" / key, ".mp4"))
                old = source.rows[part.episode]
                start, end = (old[f"videos/{key}/{which}_timestamp"] for which in ("from", "to"))
                if not source.is_whole(part):
                    start, end = (start + k / self.fps for k in (part.first, part.end))
                values = (*linked[part.source, video], start, end)
                names = (*VIDEO_COLUMNS, "to_timestamp")
                row |= {f"videos/{key}/{name}": value for name, value in zip(names, values)}
        return columns

    def _episode_row(
        self, out: Path, index: int, number: FileNumber, videos: Mapping[str, Any]
    ) -> dict[str, Any]:
        """Row of the episode table."""
        part = self.slices[index]
        source = self.sources[part.source]
        columns = self._read_numbers(number.path(out / "data"))
        own = columns["episode_index"] == index
        stats = {key: statistics.value_statistics(values[own]) for key, values in columns.items()}
        if not source.is_whole(part):
            stats |= {key: one.stats() for key, one in source.histograms(part).items()}
        first, end = self.starts[index : index + 2]
        return {
            **source.rows[part.episode],
            **layout.episode_row(
                index, self._tasks_of(part), first, end, number, FileNumber(0, 0)
            ),
            **videos,
            **({} if part.outcome is None else {OUTCOME: part.outcome}),
            **statistics.flatten(stats),
        }

    def _write_info(self, meta: Path) -> None:
        info = {
            **self.sources[0].info,
            **layout.info_totals(len(self.slices), self.starts[-1], len(self.tasks)),
            "chunks_size": layout.FILES_PER_CHUNK,
            "data_path": DATA_PATHS[VERSION],
            "video_path": VIDEO_PATHS[VERSION] if self._video_keys else None,
        }
        file_io.write_json(meta / "info.json", info)

    # Histograms of image sets add, so those of the result follow from the stored ones:
    #
    #   result = sum over the sources of
    #       stored - sum(episodes that are not kept whole) + sum(kept slices of such episodes)
    #
    # A stored histogram counts the images before video compression, but the images read back are
    # those after it. So with videos nothing can be subtracted. In that case, or if a source has no
    # complete histograms, no file is written and `DatasetStatistics.restore` counts all images.
    def _write_histograms(self, meta: Path) -> None:
        keys = schema.image_keys(self.features)
        image_features = {keys[camera] for camera in schema.color_image_sizes(self.features)}
        total: dict[str, ImageHistogram] = {}
        for number, source in enumerate(self.sources):
            n_episodes = len(source.rows)
            covered, result = statistics.load_histograms(source.root / "meta", n_episodes)
            kept = [part for part in self.slices if part.source == number]
            whole = {part.episode for part in kept if source.is_whole(part)}
            removed = [part for part in source.slices(number) if part.episode not in whole]
            if covered < n_episodes or (removed and self._video_keys):
                return
            if not image_features <= set(result):
                return
            for part in (part for part in kept if not source.is_whole(part)):
                for key, histogram in source.histograms(part).items():
                    result[key] += histogram
            for part in removed:
                for key, histogram in source.histograms(part).items():
                    result[key] -= histogram
            total = {key: total[key] + one if key in total else one for key, one in result.items()}
        if total:
            statistics.save_histograms(meta, total, len(self.slices))


def _check_joinable(first: SourceDataset, other: SourceDataset) -> None:
    """Raises DatasetError if two folders cannot be one."""
    check_compatible([first.dataset, other.dataset])
    ours, theirs = (_comparable(source.info) for source in (first, other))
    for key in {**ours, **theirs}:
        if ours.get(key) != theirs.get(key):
            raise DatasetError(
                f"{key} is {theirs.get(key, 'missing')} in {other.root} and "
                f"{ours.get(key, 'missing')} in {first.root}; they cannot be one dataset"
            )


def _comparable(info: Mapping[str, Any]) -> dict[str, Any]:
    """Values of info.json that must be the same in all sources."""
    columns = {
        f"column '{key}'": (feature["dtype"], feature.get("shape"), feature.get("names"))
        for key, feature in info["features"].items()
    }
    return {"robot_type": info.get("robot_type"), **columns}


def _episode_table(rows: Sequence[Mapping[str, Any]]) -> pa.Table:
    """The episode table; a column that some episodes lack is null there."""
    keys = dict.fromkeys(key for row in rows for key in row)
    known = [key for key in keys if any(row.get(key) is not None for row in rows)]
    return pa.Table.from_pylist([{key: row.get(key) for key in known} for row in rows])


def _link(origin: Path, target: Path) -> None:
    """Hard-links a file; copies it if the target is on another disk."""
    if not origin.is_file():
        raise DatasetError(f"{origin} is missing; copy the folder again")
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        os.link(origin, target)
    except OSError:
        shutil.copy2(origin, target)
        file_io.fsync(target)


def _link_other_files(root: Path, out: Path) -> None:
    """Links the files of a folder and of its meta that are not ours, such as a README."""
    for path in (*root.iterdir(), *(root / "meta").iterdir()):
        own = path.parent.name == "meta" and path.name in OWN_META
        if path.is_file() and not own:
            _link(path, out / path.relative_to(root))
