"""HTML page of one recorded episode: summary, camera video, joint plots, and action statistics."""

from collections.abc import Iterator, Sequence
from html import escape
from pathlib import Path

import cv2
import numpy as np

from nac_ros.datasets.episode import Episode
from nac_ros.datasets.factory import AnyDataset
from nac_ros.reporting import plots
from nac_ros.reporting.html import figure, page, section, table
from nac_ros.reporting.trial_trace import TimeSpan, TrialTrace
from nac_ros.reporting.video import write_video

PAGE, VIDEO = "episode.html", "episode.mp4"
HEIGHT = 240  # [pixels] of each camera in the video
DEFAULT_FPS = 30  # of a dataset without a rate


def write_episode_report(
    folder: Path, dataset: AnyDataset, index: int, findings: Sequence[str] = ()
) -> Path:
    """Writes <folder>/episode.html, and episode.mp4 if the dataset has images.

    findings: sentences of the dataset checks about this episode
    """
    episode = dataset.episode(index)
    folder.mkdir(parents=True, exist_ok=True)
    sections = [section("Episode", _summary(dataset, episode, findings))]
    if episode.images:
        write_video(folder / VIDEO, _video_frames(episode), dataset.fps or DEFAULT_FPS)
        video = f'<video controls muted loop src="{VIDEO}"></video>'
        sections.append(section("Cameras", f"{video}<p>{escape(', '.join(episode.images))}</p>"))
    caption = "Action (commanded) and state (measured) of each dimension; green: intervention."
    plot = plots.plot_joints(episode_trace(dataset, episode, index))
    sections.append(section("Joints", figure(plot, caption)))
    sections.append(section("Actions", _action_statistics(dataset, episode)))
    path = folder / PAGE
    subtitle = escape(f"{dataset.root} · {', '.join(episode.tasks)}")
    path.write_text(page(f"Episode {index}", subtitle, "\n".join(sections)), encoding="utf-8")
    return path


def episode_trace(dataset: AnyDataset, episode: Episode, index: int) -> TrialTrace:
    """The episode as a trial; without a state of the actions' shape, both curves are actions."""
    rate = dataset.fps or DEFAULT_FPS
    times = np.arange(len(episode)) / rate
    has_state = episode.proprio.shape == episode.actions.shape
    return TrialTrace(
        task=", ".join(episode.tasks),
        trial=index,
        outcome={True: "success", False: "failure", None: "aborted"}[episode.success],
        reason="",
        names=tuple(dataset.names),
        units=tuple(dataset.units),
        times=times,
        commanded=episode.actions,
        measured=episode.proprio if has_state else episode.actions,
        rate_hz=rate,
        interventions=tuple(_intervention_spans(episode.intervention, times)),
    )


def _intervention_spans(marked: np.ndarray | None, times: np.ndarray) -> Iterator[TimeSpan]:
    """Spans of consecutive marked frames; marked: bool `[T]` or None, times: `[T]` [s]."""
    if marked is None:
        return
    edges = np.flatnonzero(np.diff(np.r_[False, marked, False]))
    for first, end in zip(edges[::2], edges[1::2]):
        yield TimeSpan(float(times[first]), float(times[end - 1]), "intervention")


def _summary(dataset: AnyDataset, episode: Episode, findings: Sequence[str]) -> str:
    seconds = len(episode) / dataset.fps if dataset.fps else float("nan")
    rows = {
        "task": ", ".join(episode.tasks) or "(none)",
        "robot": dataset.robot_type or "(unknown)",
        "frames": f"{len(episode)} at {dataset.fps} Hz, {seconds:.1f} s",
        "outcome": {True: "success", False: "failure", None: "unknown"}[episode.success],
        "findings": "; ".join(findings) or "none",
    }
    if episode.intervention is not None and episode.intervention.any():
        rows["intervention"] = f"{episode.intervention.mean():.0%} of the frames"
    return table(["", ""], [[key, escape(value)] for key, value in rows.items()])


def _action_statistics(dataset: AnyDataset, episode: Episode) -> str:
    actions = episode.actions
    steps = np.abs(np.diff(actions, axis=0)) if len(episode) > 1 else 0 * actions
    columns = np.stack([actions.min(0), actions.max(0), actions.mean(0), steps.max(0)], 1)
    rows = [
        [escape(name), escape(unit), *(f"{value:.4g}" for value in values)]
        for name, unit, values in zip(dataset.names, dataset.units, columns)
    ]
    return table(["dimension", "unit", "least", "most", "mean", "largest step"], rows)


def _video_frames(episode: Episode) -> Iterator[np.ndarray]:
    """All cameras side by side, uint8 RGB `[H, W, 3]` with even sides."""
    for k in range(len(episode)):
        yield np.concatenate([_resize(images[k]) for images in episode.images.values()], 1)


def _resize(image: np.ndarray) -> np.ndarray:
    width = 2 * round(HEIGHT * image.shape[1] / image.shape[0] / 2)
    return cv2.resize(image, (width, HEIGHT), interpolation=cv2.INTER_AREA)
