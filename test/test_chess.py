"""Rook takes queen: positions on and off the board, fallen pieces, every outcome of a trial."""

import numpy as np
import pytest
from twin_setup import SPEC, outcome, put, put_tool, run, skip_to_horizon

from nac_ros.simulation.bodies import FreeBody
from nac_ros.simulation.tasks.chess import ASIDE, BOARD, HALF_BOARD, PIECES, SQUARE, THICK, square
from nac_ros.simulation.twin import Twin

HOME = square(*PIECES["queen"][2:])


@pytest.fixture(scope="module")
def twin():
    return Twin(SPEC, "chess", render=False)


def on_board(twin, x, y):
    """A point on the board, given in its frame [m], in the world."""
    board = twin.data.body("board")
    return board.xpos + board.xmat.reshape(3, 3) @ [x, y, THICK]


def take(twin, queen=(*ASIDE, 0.0), rook=HOME):
    """Puts the queen at a point of the world and the rook at a point of the board [m]."""
    put(twin, "queen", queen)
    put(twin, "rook", on_board(twin, *rook))


def test_a_rook_on_the_queens_square_and_the_queen_off_the_board_are_success(twin):
    twin.reset(0)
    take(twin)
    run(twin, 0.4)
    assert twin.outcome().state == "running"
    run(twin, 0.3)
    assert outcome(twin) == "success: the rook has taken the queen"


def test_a_queen_lying_off_the_board_counts_as_taken(twin):
    twin.reset(0)
    take(twin)
    address = twin.model.joint("queen").qposadr[0]
    twin.data.qpos[address : address + 7] = (*ASIDE, 0.02, np.sqrt(0.5), np.sqrt(0.5), 0, 0)
    run(twin, 1.5)
    assert twin.outcome().state == "success"


def test_a_rook_next_to_the_queens_square_is_not_success(twin):
    twin.reset(0)
    take(twin, rook=HOME + [0, 0.6 * SQUARE])
    run(twin, 0.8)
    assert twin.outcome().state == "running"
    skip_to_horizon(twin)
    assert outcome(twin) == "failure: the rook is not on the queen's square at the end"


def test_a_queen_on_the_boards_frame_is_still_on_the_board(twin):
    twin.reset(0)
    take(twin, queen=on_board(twin, 0.0, HALF_BOARD - 0.006))
    run(twin, 0.8)
    assert twin.outcome().state == "running"
    skip_to_horizon(twin)
    assert outcome(twin) == "failure: the queen is not off the board at the end"


@pytest.mark.parametrize("name", ["rook", "white_king", "black_pawn_b"])
def test_a_piece_that_is_knocked_over_is_failure_at_once(twin, name):
    twin.reset(0)
    twin.data.qvel[twin.model.joint(name).dofadr[0] + 3] = 25.0  # a knock, about x [rad/s]
    run(twin, 0.6)
    shown = name.replace("_b", "").replace("_", " ") if "pawn" in name else name.replace("_", " ")
    assert outcome(twin) == f"failure: the {shown} was knocked over"


def test_pieces_stand_stable_until_the_horizon(twin):
    twin.reset(0)
    run(twin, 1.5)
    assert twin.outcome().state == "running"
    assert max(FreeBody(twin.model, twin.data, name).tilt() for name in PIECES) < np.deg2rad(1)
    skip_to_horizon(twin)
    assert outcome(twin) == "failure: the queen is not off the board at the end"


def test_a_rook_that_is_still_held_is_not_success(twin):
    twin.reset(0)
    take(twin)
    put_tool(twin, on_board(twin, *HOME) + [0, 0, 0.021], opening=0.012)
    run(twin, 1.0)
    assert twin.outcome().state == "running"
    skip_to_horizon(twin)
    assert outcome(twin) == "failure: the pieces are not released, upright and at rest at the end"


def test_board_and_pieces_start_around_their_marks_each_piece_on_its_square(twin):
    boards = []
    for seed in range(25):
        twin.reset(seed)
        board = twin.data.body("board")
        boards.append(board.xpos[:2] - (BOARD.x, BOARD.y))
        for name, (_, _, rank, file) in PIECES.items():
            local = board.xmat.reshape(3, 3).T @ (twin.data.body(name).xpos - board.xpos)
            assert np.abs(local[:2] - square(rank, file)).max() < 0.004
            assert local[2] == pytest.approx(THICK, abs=1e-3)
    assert 0.007 < np.abs(boards).max() <= BOARD.spread
