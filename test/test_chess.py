"""Rook takes queen: the board as playing mat, men that fall, every end of a trial."""

import numpy as np
import pytest
from twin_setup import SPEC, outcome, put, put_tool, run, to_the_horizon

from nac_ros.simulation.bodies import FreeBody
from nac_ros.simulation.tasks.chess import ASIDE, BOARD, HALF_BOARD, PIECES, SQUARE, THICK, square
from nac_ros.simulation.twin import Twin

HOME = square(*PIECES["queen"][2:])


@pytest.fixture(scope="module")
def twin():
    return Twin(SPEC, "chess", render=False)


def on_board(twin, x, y):
    """A place in the board's frame on its surface, in the world [m]."""
    board = twin.data.body("board")
    return board.xpos + board.xmat.reshape(3, 3) @ [x, y, THICK]


def take(twin, queen=(*ASIDE, 0.0), rook=HOME):
    """Puts the queen there, the rook on that place of the board."""
    put(twin, "queen", queen)
    put(twin, "rook", on_board(twin, *rook))


def test_a_rook_on_the_queens_square_and_the_queen_beside_the_board_are_success(twin):
    twin.reset(0)
    take(twin)
    run(twin, 0.4)
    assert twin.outcome().state == "running"
    run(twin, 0.3)
    assert outcome(twin) == "success: the rook has taken the queen"


def test_a_queen_that_lies_beside_the_board_is_taken_too(twin):
    twin.reset(0)
    take(twin)
    address = twin.model.joint("queen").qposadr[0]
    twin.data.qpos[address : address + 7] = (*ASIDE, 0.02, np.sqrt(0.5), np.sqrt(0.5), 0, 0)
    run(twin, 1.5)
    assert twin.outcome().state == "success"


def test_a_rook_beside_the_queens_square_is_not_enough(twin):
    twin.reset(0)
    take(twin, rook=HOME + [0, 0.6 * SQUARE])
    run(twin, 0.8)
    assert twin.outcome().state == "running"
    to_the_horizon(twin)
    assert outcome(twin) == "failure: the rook is not on the queen's square at the end"


def test_a_queen_on_the_boards_frame_is_still_on_the_playing_mat(twin):
    twin.reset(0)
    take(twin, queen=on_board(twin, 0.0, HALF_BOARD - 0.006))
    run(twin, 0.8)
    assert twin.outcome().state == "running"
    to_the_horizon(twin)
    assert outcome(twin) == "failure: the queen is not off the board at the end"


@pytest.mark.parametrize("name", ["rook", "white_king", "black_pawn_b"])
def test_a_man_that_is_pushed_over_is_failure_at_once(twin, name):
    twin.reset(0)
    twin.data.qvel[twin.model.joint(name).dofadr[0] + 3] = 25.0  # a knock, about x [rad/s]
    run(twin, 0.6)
    said = name.replace("_b", "").replace("_", " ") if "pawn" in name else name.replace("_", " ")
    assert outcome(twin) == f"failure: the {said} was knocked over"


def test_men_stand_by_themselves_and_wait_for_the_horizon(twin):
    twin.reset(0)
    run(twin, 1.5)
    assert twin.outcome().state == "running"
    assert max(FreeBody(twin.model, twin.data, name).tilt() for name in PIECES) < np.deg2rad(1)
    to_the_horizon(twin)
    assert outcome(twin) == "failure: the queen is not off the board at the end"


def test_a_rook_that_is_still_held_is_not_success(twin):
    twin.reset(0)
    take(twin)
    put_tool(twin, on_board(twin, *HOME) + [0, 0, 0.021], opening=0.012)
    run(twin, 1.0)
    assert twin.outcome().state == "running"
    to_the_horizon(twin)
    assert outcome(twin) == "failure: the pieces are not released, upright and at rest at the end"


def test_board_and_men_start_around_their_marks_each_man_on_its_square(twin):
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
