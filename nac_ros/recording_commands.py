"""What each command of `nac data` does to recorded episodes."""

from argparse import Namespace
from pathlib import Path
from typing import Any

from nac_ros.errors import ConfigError, DatasetError, NacError

RERUN = "episode.rrd"


def repair(a: Namespace) -> dict[str, Any]:
    """Completes what a crash left, and says what was lost."""
    from nac_ros.data import bagfile

    places = [place for path in a.paths for place in _damaged(path)]
    rows, failed = [], []
    for place in places:
        try:
            done = bagfile.repair(place)
        except NacError as error:
            failed.append(str(error))
            print(error)
            continue
        print(done)
        rows.append({**done._asdict(), "folder": str(done.folder)})
    if failed and not rows:
        raise DatasetError(failed[-1])
    if not places:
        print("nothing to repair: no episode there was cut off or damaged")
    return {"repaired": rows, "failed": failed}


def edit(a: Namespace) -> dict[str, Any]:
    """Relabels, discards, merges or splits recorded episodes."""
    from nac_ros.data import edit_recordings as editing

    if a.deed == "relabel":
        wanted = {"task": a.task, "outcome": a.outcome, "note": a.note}
        facts = {key: value for key, value in wanted.items() if value is not None}
        if not facts:
            raise ConfigError("relabel needs --task, --outcome or --note")
        for path in a.paths:
            editing.relabel(path, facts)
        done = list(a.paths)
    elif a.deed == "discard":
        done = [editing.discard(path) for path in a.paths]
    elif a.deed == "merge":
        if a.out is None:
            raise ConfigError("merge needs --out, the folder that the episodes go to")
        done = editing.merge(a.paths, a.out)
    else:
        if a.at is None:
            raise ConfigError("split needs --at, seconds after the episode's first message")
        done = [part for path in a.paths for part in editing.split(path, a.at)]
    for path in done:
        print(path)
    return {"paths": [str(path) for path in done]}


def view(a: Namespace) -> dict[str, Any]:
    """One episode as a page, and as a rerun recording."""
    from nac_ros.data.datasets import open_dataset
    from nac_ros.evaluation.episode_page import write_page

    dataset = open_dataset(a.path, a.action_key, a.state_key)
    folder = a.out / f"episode-{a.episode:06d}"
    written = [write_page(folder, dataset, a.episode, _findings(a.path, a.episode))]
    try:
        from nac_ros.nodes.rerun_dataset import write_rerun

        (folder / RERUN).unlink(missing_ok=True)
        written.append(write_rerun(folder / RERUN, dataset, a.episode))
    except (ImportError, NacError) as error:
        print(f"no rerun recording: {error}")
    for path in written:
        print(path)
    return {"paths": [str(path) for path in written]}


def _findings(path: Path, index: int) -> list[str]:
    """What `nac data check` says of one recorded episode."""
    from nac_ros.data.datasets import holds_recordings

    if not holds_recordings(path):
        return []
    from nac_ros.data.check_recordings import check_recordings

    return [finding.message for finding in check_recordings(path) if finding.episode == index]


def demonstrate(a: Namespace) -> dict[str, Any]:
    """Episodes that a scripted operator records by teleoperation."""
    from nac_ros.nodes.scripted_hand import HandConfig, record_demonstrations

    config = HandConfig(task=a.task, episodes=a.episodes, seed=a.seed, out=str(a.out))
    figures = record_demonstrations(config)
    print(f"{figures['kept']} episodes in {figures['out']}, {figures['minutes']:.1f} min")
    return figures


def rerun(a: Namespace) -> dict[str, Any]:
    """An episode through the guard, on the twin or on the arm."""
    from nac_ros.nodes.rerun_episode import RerunConfig, rerun_episode

    config = RerunConfig(
        data=str(a.path), episode=a.episode, action_key=a.action_key or "", robot=a.robot,
        speed=a.speed, out=str(a.out),
    )  # fmt: skip
    figures = rerun_episode(config)
    print("joint            commanded: rms, max   measured: rms, max")
    for joint in figures["commanded_rms"]:
        row = [
            figures[f"{w}_{k}"][joint] for w in ("commanded", "measured") for k in ("rms", "max")
        ]
        print(f"{joint:16s} {row[0]:11.4f} {row[1]:7.4f} {row[2]:11.4f} {row[3]:7.4f}")
    for what in ("holds", "refusals", "clips"):
        if figures[what]:
            print(f"{what}: {', '.join(f'{key} {n}' for key, n in figures[what].items())}")
    return figures


def _damaged(path: Path) -> list[Path]:
    """The episode itself, or those of a folder that are unfinished or cannot be read whole."""
    from nac_ros.data import bag, bagfile

    if not path.is_dir():
        raise DatasetError(f"{path} is no folder; name an episode, or a folder of them")
    if (path / bag.FILE).is_file():
        return [path]
    return bagfile.unfinished(path) + [
        folder
        for folder in sorted(path.iterdir())
        if bagfile.is_episode(folder) and not bagfile.is_whole(folder)
    ]
