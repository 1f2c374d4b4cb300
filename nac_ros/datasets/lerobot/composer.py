"""Episodes of LeRobot v3 folders, and pieces of them, of which others are made."""

import os
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cached_property, lru_cache, partial
from itertools import groupby
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa

from nac_ros.core import files as file_io
from nac_ros.core.errors import DatasetError
from nac_ros.datasets.compatibility import check_compatible
from nac_ros.datasets.lerobot import layout, statistics, tables
from nac_ros.datasets.lerobot import reader as lerobot_reader
from nac_ros.datasets.lerobot.info import DATA_PATHS, VIDEO_PATHS, frame_rate, read_info, show
from nac_ros.datasets.lerobot.layout import OUTCOME, SUCCESS, VERSION, FileNumber
from nac_ros.datasets.lerobot.reader import VIDEO_COLUMNS, OUTCOMES, LeRobotDataset
from nac_ros.datasets.lerobot.schema import image_keys, color_image_sizes
from nac_ros.datasets.lerobot.statistics import ImageHistogram, DatasetStatistics

ALIKE = ("robot_type",)


class EpisodeSlice(NamedTuple):
    """Frames `first` to before `end` of an episode of a source; task, outcome: what they become,
    as they are when None."""

    source: int
    episode: int
    first: int
    end: int
    task: str | None = None
    outcome: str | None = None


class SourceDataset:
    """A v3 folder with its whole table of contents; raises DatasetError for any other."""

    def __init__(self, root: Path):
        self.root, self.info = root, read_info(root)
        if self.info["codebase_version"] != VERSION:
            raise DatasetError(
                f"{root} is a LeRobot folder of {self.info['codebase_version']}, which is not "
                "edited; `nac data convert --to lerobot` makes one of v3.0 of it"
            )
        self.dataset = LeRobotDataset.open(root)
        if not self.dataset.episodes:
            raise DatasetError(f"{root} holds no episode yet")
        self.tasks = lerobot_reader.read_tasks(root)
        files = layout.episode_files(root)
        self.rows = [row for path in files for row in lerobot_reader.read_contents(path)]
        for key in (k for k, f in self.info["features"].items() if f["dtype"] == "video"):
            for row in self.rows:
                check_video_times(root, key, row)

    def parts(self, source: int) -> list[EpisodeSlice]:
        """Every episode, whole; `source`: this one's number among those composed."""
        return [EpisodeSlice(source, i, 0, row["length"]) for i, row in enumerate(self.rows)]

    def is_whole(self, part: EpisodeSlice) -> bool:
        return (part.first, part.end) == (0, self.rows[part.episode]["length"])

    def data_file(self, part: EpisodeSlice) -> Path:
        return self.dataset.data_file(part.episode)

    def video_file(self, key: str, part: EpisodeSlice) -> Path:
        return self.dataset.video_file(part.episode, key)

    def tasks_of(self, part: EpisodeSlice) -> tuple[str, ...]:
        """Texts of a part's frames."""
        whole = self.dataset.episode(part.episode, images=False)
        return whole.slice_frames(part.first, part.end).tasks

    def task_text(self, number: int, part: EpisodeSlice) -> str:
        """The text of a task_index; raises DatasetError where the table has none."""
        if number not in self.tasks:
            raise DatasetError(
                f"{self.root}, episode {part.episode}: task_index {number} is not in the table of "
                "tasks; copy the folder again"
            )
        return self.tasks[number]

    def success(self, part: EpisodeSlice) -> bool:
        return self.dataset.episode(part.episode, images=False).success is True


def check_same_features(first: SourceDataset, other: SourceDataset) -> None:
    """Raises DatasetError where two folders cannot be one."""
    check_compatible([first.dataset, other.dataset])
    for key in ALIKE:
        if first.info.get(key) != other.info.get(key):
            raise DatasetError(
                f"{other.root} has {key} {other.info.get(key)}, {first.root} has "
                f"{first.info.get(key)}; they cannot be one dataset"
            )
    ours, theirs = (_shapes(source.info["features"]) for source in (first, other))
    for key in {**ours, **theirs}:
        if ours.get(key) != theirs.get(key):
            raise DatasetError(
                f"column '{key}' is {theirs.get(key, 'not there')} in {other.root} and "
                f"{ours.get(key, 'not there')} in {first.root}; they cannot be one dataset"
            )


def _shapes(wanted: Mapping[str, Any]) -> dict[str, Any]:
    return {key: (f["dtype"], f.get("shape"), f.get("names")) for key, f in wanted.items()}


def check_video_times(root: Path, key: str, row: Mapping[str, Any]) -> None:
    """Raises DatasetError unless a line says from when to when its video goes [s]."""
    for which in ("from", "to"):
        value = row.get(f"videos/{key}/{which}_timestamp")
        if not isinstance(value, (int, float)) or not 0 <= value <= lerobot_reader.MAX_SECONDS:
            raise DatasetError(
                f"{root}, episode {row['episode_index']}: videos/{key}/{which}_timestamp is "
                f"{show(value)}; wanted seconds in 0 .. {lerobot_reader.MAX_SECONDS:g}"
            )


def rows_of(path: Path, table: pa.Table, part: EpisodeSlice) -> tuple[int, int]:
    """First row and one past the last of a part in its data file."""
    episodes = tables.read_scalars(table["episode_index"], "int64", f"{path}: episode_index")
    found = np.flatnonzero(episodes == part.episode)
    if not part.end or len(found) < part.end or found[-1] - found[0] + 1 != len(found):
        raise DatasetError(
            f"{path}: episode {part.episode} should have {part.end} consecutive frames, "
            f"{len(found)} were found; copy the folder again"
        )
    return int(found[0]) + part.first, int(found[0]) + part.end


NUMBERING = ("episode_index", "index", "frame_index", "timestamp", "task_index", SUCCESS)
# derived, or of one writer's run; whatever else lies in meta is taken over
OWN_META = ("info.json", "stats.json", "tasks.parquet", statistics.LEVELS_FILE, ".lock",
            "convert.json", "generate.json", "edit.json")  # fmt: skip
EDIT_FILE = "edit.json"
Report = Callable[[int, int], None]


class DatasetComposer:
    """What becomes of the parts; `write` does it in an empty folder."""

    def __init__(self, sources: Sequence[SourceDataset], parts: Sequence[EpisodeSlice]):
        """Raises DatasetError where the sources cannot be one dataset."""
        self.sources, self.parts, first = sources, parts, sources[0]
        for other in sources[1:]:
            check_same_features(first, other)
        self.features: dict[str, Any] = first.info["features"]
        self.fps = frame_rate(first.info)
        self._numbers = lru_cache(maxsize=1)(
            partial(statistics.number_columns, wanted=self.features)
        )
        lengths = [part.end - part.first for part in parts]
        self.starts = [int(n) for n in np.cumsum([0, *lengths])]

    @cached_property
    def tasks(self) -> list[str]:
        """Those that are used, in the order of the first source, so that few numbers change; a new
        text takes the place of one that nothing has any more."""
        used = dict.fromkeys(task for part in self.parts for task in self.texts(part))
        known = self.sources[0].tasks.values()
        table = [task if task in used else None for task in known]
        for task in used:
            if task not in table:
                free = table.index(None) if None in table else len(table)
                table[free : free + 1] = [task]
        return [task for task in table if task is not None]

    def texts(self, part: EpisodeSlice) -> list[str]:
        """The tasks of a part."""
        source = self.sources[part.source]
        if part.task is not None:
            return [part.task]
        if source.is_whole(part):
            return list(source.rows[part.episode]["tasks"])
        return list(source.tasks_of(part))

    def write(self, out: Path, report: Report = lambda done, total: None) -> None:
        """Everything but what tells where it came from; report: (files done, files)."""
        meta = out / "meta"
        meta.mkdir(parents=True)
        layout.write_parquet(meta / "tasks.parquet", layout.tasks_table(self.tasks))
        runs = [list(run) for _, run in groupby(enumerate(self.parts), self._file_of)]
        numbers, number = {}, FileNumber(0, 0)
        for done, run in enumerate(runs, start=1):
            self._write_data(number.path(out / "data"), run)
            numbers |= {index: number for index, _ in run}
            number = number.next()
            report(done, len(runs))
        clips = self._link_videos(out)
        self._write_info(meta)
        rows = [self._row(out, i, numbers[i], clips[i]) for i in range(len(self.parts))]
        _write_rows(FileNumber(0, 0).path(meta / "episodes"), rows)
        self._write_levels(meta)
        files = [n.path(out / "data") for n in dict.fromkeys(numbers.values())]
        info = read_info(out)
        DatasetStatistics.restore(out, info, files, len(self.parts)).write(meta)
        _link_rest(self.sources[0].root, out)

    @property
    def _pictures(self) -> set[str]:
        """Features of images in colour."""
        keys = image_keys(self.features)
        return {keys[camera] for camera in color_image_sizes(self.features)}

    @property
    def _filmed(self) -> bool:
        """Whether images are in videos."""
        return any(feature["dtype"] == "video" for feature in self.features.values())

    def _file_of(self, numbered: tuple[int, EpisodeSlice]) -> tuple[int, Path]:
        part = numbered[1]
        return part.source, self.sources[part.source].data_file(part)

    def _write_data(self, path: Path, run: Sequence[tuple[int, EpisodeSlice]]) -> None:
        """One data file of the parts that come from one, linked where nothing in it changes."""
        source = self.sources[run[0][1].source]
        origin = source.data_file(run[0][1])
        known = [key for key in NUMBERING if key in self.features]
        before = tables.read_table(origin, known)
        rows = [rows_of(origin, before, part) for _, part in run]
        pieces = [
            self._numbering(index, part, before.slice(*_span(kept)), origin)
            for (index, part), kept in zip(run, rows)
        ]
        now = {key: np.concatenate([piece[key] for piece in pieces]) for key in known}
        numbers = self._index_columns(before, origin)
        same = all(np.array_equal(numbers[key], now[key]) for key in known)
        if same:
            return _link(origin, path)
        whole = tables.read_table(origin)
        table = pa.concat_tables([whole.slice(*_span(kept)) for kept in rows])
        for key in known:
            at, field = table.schema.get_field_index(key), table.schema.field(key)
            plain = pa.types.is_primitive(field.type)
            values = pa.array(now[key]).cast(field.type) if plain else pa.array(now[key])
            table = table.set_column(at, field.with_type(values.type), values)
        layout.write_parquet(path, table)

    def _index_columns(self, table: pa.Table, path: Path) -> dict[str, np.ndarray]:
        """The columns of NUMBERING as numbers of the kind that their features say."""
        kinds = dict.fromkeys(NUMBERING, "int64") | {"timestamp": "float64", SUCCESS: "bool"}
        return {
            key: tables.read_scalars(table[key], kinds[key], f"{path}: {key}")
            for key in table.column_names
        }

    def _numbering(
        self, index: int, part: EpisodeSlice, before: pa.Table, origin: Path
    ) -> dict[str, np.ndarray]:
        """The columns that say which frame of which episode it is, as they become."""
        n, source = part.end - part.first, self.sources[part.source]
        now = self._index_columns(before, origin)
        now["episode_index"] = np.full(n, index)
        now["index"] = self.starts[index] + np.arange(n)
        if "task_index" in now:
            codes, places = np.unique(now["task_index"], return_inverse=True)
            numbers = [self._task_number(k, part) for k in codes.tolist()]
            now["task_index"] = np.array(numbers, np.int64)[places]
        if not source.is_whole(part):
            now["frame_index"] = np.arange(n)
            now["timestamp"] = (np.arange(n) / self.fps).astype(np.float32)
        if SUCCESS in now and (part.outcome is not None or not source.is_whole(part)):
            reached = source.success(part) if part.outcome is None else OUTCOMES[part.outcome]
            now[SUCCESS] = np.arange(n) == (n - 1 if reached else n)
        return now

    def _task_number(self, number: int, part: EpisodeSlice) -> int:
        """What a task_index of a part becomes; raises DatasetError where no line of the table of
        contents has its text."""
        source = self.sources[part.source]
        text = source.task_text(number, part) if part.task is None else part.task
        if text not in self.tasks:
            raise DatasetError(
                f"{source.root}, episode {part.episode}: its frames have the task '{text}', which "
                "meta/episodes does not list; give it one with `nac data edit relabel --task`"
            )
        return self.tasks.index(text)

    def _link_videos(self, out: Path) -> list[dict[str, Any]]:
        """Of each part the columns that say where in which video it is."""
        found: list[dict[str, Any]] = [{} for _ in self.parts]
        for key in (k for k, f in self.features.items() if f["dtype"] == "video"):
            taken: dict[tuple[int, Path], FileNumber] = {}
            for part, columns in zip(self.parts, found):
                source = self.sources[part.source]
                origin = part.source, source.video_file(key, part)
                if origin not in taken:
                    taken[origin] = _nth(len(taken))
                    _link(origin[1], taken[origin].path(out / "videos" / key, ".mp4"))
                columns |= self._clip(key, part, taken[origin])
        return found

    def _clip(self, key: str, part: EpisodeSlice, number: FileNumber) -> dict[str, Any]:
        source = self.sources[part.source]
        row = source.rows[part.episode]
        start, end = (row[f"videos/{key}/{which}_timestamp"] for which in ("from", "to"))
        if not source.is_whole(part):
            start, end = (start + k / self.fps for k in (part.first, part.end))
        values = (number.chunk, number.file, start)
        columns = {f"videos/{key}/{what}": value for what, value in zip(VIDEO_COLUMNS, values)}
        return {**columns, f"videos/{key}/to_timestamp": end}

    def _row(
        self, out: Path, index: int, number: FileNumber, clip: Mapping[str, Any]
    ) -> dict[str, Any]:
        """One line of the table of contents."""
        part = self.parts[index]
        source = self.sources[part.source]
        first, end = self.starts[index : index + 2]
        return {
            **source.rows[part.episode],
            "episode_index": index,
            "tasks": self.texts(part),
            "length": end - first,
            "data/chunk_index": number.chunk,
            "data/file_index": number.file,
            "dataset_from_index": first,
            "dataset_to_index": end,
            "meta/episodes/chunk_index": 0,
            "meta/episodes/file_index": 0,
            **clip,
            **({} if part.outcome is None else {OUTCOME: part.outcome}),
            **statistics.flatten(self._stats(out, index, number)),
        }

    def _stats(self, out: Path, index: int, number: FileNumber) -> dict[str, Any]:
        """Of the numbers of a part as they are now, and of its images where they are fewer."""
        part = self.parts[index]
        source = self.sources[part.source]
        columns = self._numbers(number.path(out / "data"))
        own = columns["episode_index"] == index
        stats = {key: statistics.value_statistics(values[own]) for key, values in columns.items()}
        if not source.is_whole(part):
            stats |= {key: one.stats() for key, one in self._levels(part).items()}
        return stats

    def _levels(self, part: EpisodeSlice) -> dict[str, ImageHistogram]:
        dataset = self.sources[part.source].dataset
        kept = slice(part.first, part.end)
        return {
            dataset.image_keys[camera]: statistics.levels(
                dataset.images(part.episode, camera)[kept]
            )
            for camera in dataset.cameras
        }

    def _write_info(self, meta: Path) -> None:
        n = len(self.parts)
        info = {
            **self.sources[0].info,
            "total_episodes": n,
            "total_frames": self.starts[-1],
            "total_tasks": len(self.tasks),
            "chunks_size": layout.FILES_PER_CHUNK,
            "splits": {"train": f"0:{n}"},
            "data_path": DATA_PATHS[layout.VERSION],
            "video_path": VIDEO_PATHS[layout.VERSION] if self._filmed else None,
        }
        file_io.write_json(meta / "info.json", info)

    def _write_levels(self, meta: Path) -> None:
        """Of the images, from what is known of the sources; where that does not say it, they are
        all counted again afterwards. A video shows other levels than those that were encoded, so
        nothing can be taken away from what was counted then."""
        total: dict[str, ImageHistogram] = {}
        for number, source in enumerate(self.sources):
            known = statistics.load_histograms(source.root / "meta", len(source.rows))
            kept = [part for part in self.parts if part.source == number]
            whole = {part.episode for part in kept if source.is_whole(part)}
            gone = [part for part in source.parts(number) if part.episode not in whole]
            if known is None or (gone and self._filmed) or not self._pictures <= set(known):
                return
            cut = [part for part in kept if not source.is_whole(part)]
            for sign, some in ((1, cut), (-1, gone)):
                for part in some:
                    for key, one in self._levels(part).items():
                        known[key] += ImageHistogram(sign * one.counts, sign * one.frames)
            total = {key: total[key] + one if key in total else one for key, one in known.items()}
        if total:
            statistics.save_histograms(meta, total, len(self.parts))


def _span(rows: tuple[int, int]) -> tuple[int, int]:
    """Offset and length of rows from the first to before the last."""
    return rows[0], rows[1] - rows[0]


def _nth(count: int) -> FileNumber:
    return FileNumber(*divmod(count, layout.FILES_PER_CHUNK))


def _write_rows(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """The table of contents; what some episodes lack is null there."""
    keys = dict.fromkeys(key for row in rows for key in row)
    known = [key for key in keys if any(row.get(key) is not None for row in rows)]
    filled = [{key: row.get(key) for key in known} for row in rows]
    layout.write_parquet(path, pa.Table.from_pylist(filled))


def _link(origin: Path, target: Path) -> None:
    """The same file under another name; a copy where the disk is another one."""
    if not origin.is_file():
        raise DatasetError(f"{origin} is missing; copy the folder again")
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        os.link(origin, target)
    except OSError:
        shutil.copy2(origin, target)
        file_io.fsync(target)


def _link_rest(root: Path, out: Path) -> None:
    """Whatever else lies in a folder and in its meta, such as a card."""
    for path in _others(root):
        _link(path, out / path.relative_to(root))


def _others(root: Path) -> Iterator[Path]:
    yield from (path for path in root.iterdir() if path.is_file())
    for path in (root / "meta").iterdir():
        if path.is_file() and path.name not in OWN_META:
            yield path
