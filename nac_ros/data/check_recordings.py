"""Looks for what is wrong in recorded episodes; sound ones have no findings."""

from collections.abc import Callable
from pathlib import Path

import numpy as np

from nac_ros.data import bagfile, slices
from nac_ros.data.bagfile import Reading
from nac_ros.data.check import Finding
from nac_ros.data.recordings import JUDGED, MIN_FRAMES, episode_folders, spec_of
from nac_ros.data.slices import Cut
from nac_ros.errors import NacError

MANY_HELD = 0.1  # share of the frames
STILL = 1e-3  # [rad or m] an arm that moves less in a whole episode did nothing


def check_recordings(
    path: Path, report: Callable[[int, int], None] = lambda done, total: None
) -> list[Finding]:
    """All findings, episodes counted in the order of their names; report is called with (episodes
    checked, episodes)."""
    folders = episode_folders(path)
    findings = [
        Finding(None, f"{partial.name} was never finished; run `nac data repair {partial}`")
        for partial in bagfile.unfinished(path)
    ]
    for index, folder in enumerate(folders):
        try:
            texts = _check(folder)
        except NacError as error:
            texts = [str(error)]
        findings += [Finding(index, f"{folder.name}: {text}") for text in texts]
        report(index + 1, len(folders))
    return findings


def _check(folder: Path) -> list[str]:
    facts, reading = bagfile.facts_of(folder), Reading()
    spec, task = spec_of(facts), facts.get("task", "")
    found = [f"while it was recorded: {t}" for t in facts.get("findings", "").split("; ") if t]
    cameras = [camera.name for camera in spec.cameras]
    cut = slices.cut(bagfile.messages(folder, None, reading), spec, cameras, task, images=False)
    if not reading.sound:
        found.append(f"damaged or cut off; run `nac data repair {folder}`")
    if not task:
        found.append("it has no task; publish one on `task`, or `nac data edit relabel`")
    if facts.get("outcome") not in JUDGED:
        found.append(f"nobody judged it, its outcome is '{facts.get('outcome', '')}'")
    return found + _check_frames(cut)


def _check_frames(cut: Cut) -> list[str]:
    found = [f"{n} messages do not fit: {reason}" for reason, n in cut.refused.items()]
    parts = [part for part in cut.slices if len(part) >= MIN_FRAMES]
    if not parts:
        return [*found, "it gives no frame; were joint states and all cameras recorded?"]
    if len(parts) > 1:
        ends = [f"{part.stamps[-1] - cut.slices[0].stamps[0]:.1f}" for part in parts[:-1]]
        found.append(f"holes after {', '.join(ends)} s make {len(parts)} episodes of it")
    frames = sum(map(len, parts))
    if cut.held > MANY_HELD * frames:
        found.append(
            f"{cut.held} of {frames} frames hold the picture before: cameras left some out"
        )
    moved = np.concatenate([[o.proprio[-1] for o in part.observations] for part in parts])
    if float(np.ptp(moved, axis=0).max()) < STILL:
        found.append("the arm never moves")
    if not cut.commands.times:
        found.append("no guard/command in it; train with --action-key joint_states")
    return found
