"""When a trial of the paper's eight tasks succeeds and fails: its Table 7, as settled here."""

from dataclasses import dataclass

from nac_ros.config import REQUIRED, SENTENCE, check_bounds, named

STACK = "a cube falls or leaves the workspace, or the stack is not complete"


@dataclass(frozen=True, kw_only=True)
class Criterion:
    """What the operator is shown, and judges by; a sentence each."""

    success: str = named(REQUIRED, SENTENCE)
    failure: str = named(REQUIRED, SENTENCE)

    def __post_init__(self) -> None:
        check_bounds(self)


TABLE_7 = {
    "weighing": Criterion(
        success="the scale's display is on after the arm has retracted",
        failure="the button was pressed but the display is not on",
    ),
    "grapes": Criterion(
        success="the grapes lie on the plate", failure="fewer than half remain on the plate"
    ),
    "marker": Criterion(
        success="the marker lies fully inside the bin at the end",
        failure="the marker is outside the bin, or was dropped outside the workspace",
    ),
    "two_blocks": Criterion(success="both cubes are stacked and stable", failure=STACK),
    "three_blocks": Criterion(success="all three cubes are stacked and stable", failure=STACK),
    "chess": Criterion(
        success="the rook stands on the queen's square, the queen lies off the board, every "
        "other piece is upright",
        failure="the queen is not off the board, or any piece was knocked over",
    ),
    "place_stone": Criterion(
        success="the stone lies on the trained intersection",
        failure="the stone lies on any other intersection",
    ),
    "fold_towel": Criterion(
        success="the towel matches the folded target",
        failure="the towel is not folded, came unfolded, or is off the workspace",
    ),
}
