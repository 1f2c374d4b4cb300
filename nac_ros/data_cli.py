"""Arguments of `nac data`."""

from pathlib import Path
from typing import Any

from nac_ros import arguments, commands, data_commands, recording_commands


def add(groups: Any) -> None:
    """`nac data` and its commands."""
    data = arguments.group(groups, "data", "demonstrations: make, look at, check")
    make = arguments.command(
        data, "generate", commands.data_generate, "demonstrations by scripted experts"
    )
    make.add_argument("--task", required=True, help="task id, such as marker")
    make.add_argument("--episodes", type=arguments.count, required=True)
    make.add_argument(
        "--out", type=Path, required=True, help="LeRobot v3 folder; resumed if there"
    )
    make.add_argument("--robot", default="vx300s")
    make.add_argument("--scenes", default="nominal", help=arguments.SCENES)
    make.add_argument("--noise", type=float, default=0.5, help="share that begins disturbed")
    make.add_argument(
        "--bundle", type=Path, help="a policy that drives first; the expert takes over from it"
    )
    make.add_argument("--workers", type=arguments.count, default=2)
    for name, run, text in (
        ("info", commands.data_info, "what a dataset holds"),
        ("check", commands.data_check, "whether a dataset is sound"),
    ):
        command = arguments.command(data, name, run, text)
        command.add_argument("path", type=Path, help="dataset, or OWNER/NAME on Hugging Face")
        command.add_argument("--action-key", help="column of the actions")
        command.add_argument("--state-key", help="column of the joint state")
    _convert(data)
    _recordings(data)


def _recordings(data: Any) -> None:
    mend = arguments.command(
        data, "repair", recording_commands.repair, "complete recordings that were cut off"
    )
    mend.add_argument(
        "paths", type=Path, nargs="+", help="episodes, or folders of which all are mended"
    )
    _edit(data)
    look = arguments.command(
        data, "view", recording_commands.view, "an episode as a page and a rerun recording"
    )
    look.add_argument("path", type=Path, help="dataset, or recorded episodes")
    look.add_argument("--episode", type=int, default=0)
    look.add_argument("--action-key", help="column of the actions")
    look.add_argument("--state-key", help="column of the joint state")
    look.add_argument("--out", type=Path, default=Path("runs/view"))
    _played(data)


def _played(data: Any) -> None:
    """What moves an arm."""
    show = arguments.command(
        data, "demonstrate", recording_commands.demonstrate,
        "a scripted operator leads the twin by a leader arm, over ROS 2, and records it",
    )  # fmt: skip
    show.add_argument("--task", required=True)
    show.add_argument("--episodes", type=arguments.count, default=20, help="that succeed")
    show.add_argument("--out", type=Path, required=True, help="folder of the episodes")
    again = arguments.command(
        data, "replay", recording_commands.rerun, "an episode through the guard, on twin or arm"
    )
    again.add_argument("path", type=Path, help="dataset, or recorded episodes")
    again.add_argument("--episode", type=int, default=0)
    again.add_argument("--action-key", help="column of the actions")
    again.add_argument(
        "--robot", default="twin", help="robot whose guard runs; `twin` starts one and its guard"
    )
    again.add_argument("--speed", type=float, default=1.0, help="share of the recorded speed")
    again.add_argument("--out", type=Path, default=Path("runs/replay"))


def _edit(data: Any) -> None:
    change = arguments.command(
        data, "edit", data_commands.edit, "relabel, discard, merge or split episodes"
    )
    change.add_argument("deed", choices=("relabel", "discard", "merge", "split"))
    change.add_argument(
        "paths", type=Path, nargs="+", help="recorded episodes, or LeRobot v3 folders"
    )
    change.add_argument(
        "--episode", type=int, nargs="+", metavar="N", help="which ones of a LeRobot folder"
    )
    change.add_argument("--task", help="relabel: another prompt")
    change.add_argument(
        "--outcome", choices=("success", "failure"), help="relabel: another verdict"
    )
    change.add_argument("--note", help="relabel: another note")
    change.add_argument("--out", type=Path, help="merge: folder that the episodes go to")
    change.add_argument("--at", type=float, help="split: seconds after the episode's begin")


def _convert(data: Any) -> None:
    turn = arguments.command(
        data, "convert", data_commands.convert, "datasets of any format into one of another"
    )
    turn.add_argument("sources", type=Path, nargs="+", metavar="SRC", help="datasets of one robot")
    turn.add_argument("--to", choices=data_commands.FORMATS, required=True)
    turn.add_argument("--out", type=Path, required=True, help="folder; gone on with if there")
    turn.add_argument("--action-key", help="column of the actions")
    turn.add_argument("--state-key", help="column of the joint state")
    turn.add_argument(
        "--fps", type=float, help="rate [Hz] of sources that do not tell it, such as 29.97"
    )
    turn.add_argument(
        "--video", choices=("none", "h264", "av1"), default=data_commands.NO_VIDEO,
        help="encode images in a LeRobot folder; PNG, which loses nothing, if none",
    )  # fmt: skip
    turn.add_argument(
        "--robot", help="mcap: name or YAML file of the robot; the sources' if they tell it"
    )
    turn.add_argument("--cameras", nargs="+", help="mcap: of these only; all if left out")
    turn.add_argument("--crf", type=int, help="of the video, 0 = best")
    turn.add_argument("--gop", type=arguments.count, help="frames from one whole one to the next")
    turn.add_argument("--threads", type=arguments.count, help="of each encoder")
