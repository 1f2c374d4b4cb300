"""One recorded episode as a page: its facts, its cameras as a video, its joints, what is wrong."""

from collections.abc import Iterator, Sequence
from html import escape
from pathlib import Path

import cv2
import numpy as np

from nac_ros.datasets.episode import Episode
from nac_ros.datasets.factory import AnyDataset
from nac_ros.reporting import plots
from nac_ros.reporting.html import figure, page, section, table
from nac_ros.reporting.trial_trace import Hold, TrialTrace
from nac_ros.reporting.video import write_video

PAGE, VIDEO = "episode.html", "episode.mp4"
HEIGHT = 240  # [pixels] of each camera's picture
DEFAULT_FPS = 30  # of a video whose dataset tells no rate


def write_page(
    folder: Path, dataset: AnyDataset, index: int, findings: Sequence[str] = ()
) -> Path:
    """Writes <folder>/episode.html, and episode.mp4 where the dataset has images."""
    episode = dataset.episode(index)
    folder.mkdir(parents=True, exist_ok=True)
    sections = [section("Episode", _facts(dataset, episode, findings))]
    if episode.images:
        write_video(folder / VIDEO, _pictures(episode), dataset.fps or DEFAULT_FPS)
        video = f'<video controls muted loop src="{VIDEO}"></video>'
        sections.append(section("Cameras", f"{video}<p>{escape(', '.join(episode.images))}</p>"))
    caption = "Action (commanded) and state (measured) of each dimension; green: a hand took over."
    shown = figure(plots.joints(trace_of(dataset, episode, index)), caption)
    sections.append(section("Joints", shown))
    sections.append(section("Actions", _statistics(dataset, episode)))
    path = folder / PAGE
    title = f"Episode {index}"
    tasks = ", ".join(episode.tasks)
    subtitle = escape(f"{dataset.root} · {tasks}")
    path.write_text(page(title, subtitle, "\n".join(sections)), encoding="utf-8")
    return path


def trace_of(dataset: AnyDataset, episode: Episode, index: int) -> TrialTrace:
    """The episode as a trial; a dataset without such a state shows its actions twice."""
    rate = dataset.fps or DEFAULT_FPS
    times = np.arange(len(episode)) / rate
    same = episode.proprio.shape == episode.actions.shape
    outcome = {True: "success", False: "failure", None: "aborted"}[episode.success]
    return TrialTrace(
        task=", ".join(episode.tasks), trial=index, outcome=outcome, reason="",
        names=tuple(dataset.names), units=tuple(dataset.units), times=times,
        commanded=episode.actions,
        measured=episode.proprio if same else episode.actions, rate_hz=rate,
        interventions=tuple(_spans(episode.intervention, times)),
    )  # fmt: skip


def _spans(marked: np.ndarray | None, times: np.ndarray) -> Iterator[Hold]:
    """Where a hand had taken over."""
    edges = np.flatnonzero(np.diff(np.r_[False, marked, False])) if marked is not None else []
    for first, end in zip(edges[::2], edges[1::2]):
        yield Hold(float(times[first]), float(times[end - 1]), "intervention")


def _facts(dataset: AnyDataset, episode: Episode, findings: Sequence[str]) -> str:
    verdict = {True: "success", False: "failure", None: "not judged"}[episode.success]
    seconds = len(episode) / dataset.fps if dataset.fps else float("nan")
    rows = {
        "task": ", ".join(episode.tasks) or "(none)",
        "robot": dataset.robot_type or "(not told)",
        "frames": f"{len(episode)} at {dataset.fps} Hz, {seconds:.1f} s",
        "outcome": verdict,
        "findings": "; ".join(findings) or "none",
    }
    if episode.intervention is not None and episode.intervention.any():
        rows["by hand"] = f"{episode.intervention.mean():.0%} of the frames"
    return table(["", ""], [[key, escape(value)] for key, value in rows.items()])


def _statistics(dataset: AnyDataset, episode: Episode) -> str:
    steps = np.abs(np.diff(episode.actions, axis=0)) if len(episode) > 1 else episode.actions * 0
    rows = [
        [escape(name), escape(unit), *(f"{v:.4g}" for v in (low, high, mean, step))]
        for name, unit, low, high, mean, step in zip(
            dataset.names, dataset.units, episode.actions.min(0), episode.actions.max(0),
            episode.actions.mean(0), steps.max(0),
        )
    ]  # fmt: skip
    return table(["dimension", "unit", "least", "most", "mean", "largest step"], rows)


def _pictures(episode: Episode) -> Iterator[np.ndarray]:
    """All cameras side by side, uint8 RGB `[H, W, 3]` with even sides."""
    for k in range(len(episode)):
        row = [_scaled(images[k]) for images in episode.images.values()]
        yield np.concatenate(row, 1)


def _scaled(image: np.ndarray) -> np.ndarray:
    width = 2 * round(HEIGHT * image.shape[1] / image.shape[0] / 2)
    return cv2.resize(image, (width, HEIGHT), interpolation=cv2.INTER_AREA)
