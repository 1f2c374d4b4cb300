"""Checks recordings: damage, missing metadata, gaps, held images, an arm that never moves."""

from pathlib import Path

import numpy as np

from nac_ros.core.errors import NacError
from nac_ros.datasets.episode import Progress
from nac_ros.datasets.mcap import reader, resampler
from nac_ros.datasets.mcap.dataset import MIN_FRAMES, VERDICTS, episode_folders, recorded_robot
from nac_ros.datasets.mcap.reader import ReadReport
from nac_ros.datasets.mcap.resampler import ResampledRecording
from nac_ros.datasets.validate import DatasetFinding, no_progress

MANY_HELD = 0.1  # share of the frames
MIN_MOTION = 1e-3  # [rad or m] an arm that moves less in a whole episode did nothing


def check_recordings(path: Path, progress: Progress = no_progress) -> list[DatasetFinding]:
    """All findings; episodes are numbered in the order of their names."""
    folders = episode_folders(path)
    findings = [
        DatasetFinding(None, f"{partial.name} is unfinished; run `nac data repair {partial}`")
        for partial in reader.unfinished(path)
    ]
    for index, folder in enumerate(folders):
        try:
            texts = _check_recording(folder)
        except NacError as error:
            texts = [str(error)]
        findings += [DatasetFinding(index, f"{folder.name}: {text}") for text in texts]
        progress(index + 1, len(folders))
    return findings


def _check_recording(folder: Path) -> list[str]:
    metadata, report = reader.read_metadata(folder), ReadReport()
    spec, task = recorded_robot(metadata), metadata.get("task", "")
    findings = filter(None, metadata.get("findings", "").split("; "))
    texts = [f"while it was recorded: {finding}" for finding in findings]
    cameras = [camera.name for camera in spec.cameras]
    messages = reader.read_messages(folder, None, report)
    recording = resampler.resample(messages, spec, cameras, task, images=False)
    if not report.intact:
        texts.append(f"damaged or cut off; run `nac data repair {folder}`")
    if not task:
        texts.append("it has no task; publish one on `task`, or `nac data edit relabel`")
    outcome = metadata.get("outcome", "")
    if outcome not in VERDICTS:
        texts.append(f"it has no verdict, its outcome is '{outcome}'")
    return texts + _check_frames(recording)


def _check_frames(recording: ResampledRecording) -> list[str]:
    texts = [f"{n} messages rejected: {reason}" for reason, n in recording.rejected.items()]
    segments = [segment for segment in recording.segments if len(segment) >= MIN_FRAMES]
    if not segments:
        return [*texts, "it gives no frame; were joint states and all cameras recorded?"]
    if len(segments) > 1:
        start = recording.segments[0].stamps[0]
        ends = [f"{segment.stamps[-1] - start:.1f}" for segment in segments[:-1]]
        texts.append(f"gaps after {', '.join(ends)} s make {len(segments)} episodes of it")
    n_frames = sum(map(len, segments))
    if recording.held_frames > MANY_HELD * n_frames:
        texts.append(
            f"{recording.held_frames} of {n_frames} frames hold the previous image, because "
            "cameras left images out"
        )
    positions = [frame.proprio[-1] for segment in segments for frame in segment.observations]
    if float(np.ptp(positions, axis=0).max()) < MIN_MOTION:
        texts.append("the arm never moves")
    if not recording.commands.times:
        texts.append("it has no guard/command; train with --action-key joint_states")
    return texts
