"""What the page says about a sitting, in words, and which order is of use when."""

from math import isinf

from nac_ros.trials.session_state import SessionState

LOST_S = 1.0  # a camera without a picture for longer
PHASES = {
    "closed": "There is no run yet",
    "preparing": "Wait",
    "reset": "Set up the scene",
    "running": "The policy drives",
    "judging": "How did it go?",
    "done": "All trials are judged",
}
HINTS = {
    "closed": "the arm can be stopped all the same",
    "preparing": "the method and the scene are being made ready",
    "reset": "put things to their start place, compare with the reference, step back",
    "running": "judge as soon as the criteria say so; the arm then stops",
    "judging": "choose, add steps and a note, then write it down",
    "done": "unblind the run to see which method was which",
}


def camera(name: str, age_s: float) -> tuple[bool, str]:
    """Whether it is lost, and what is written on its picture."""
    if isinf(age_s):
        return True, f"{name}: no picture yet"
    if age_s > LOST_S:
        return True, f"{name}: no picture for {age_s:.0f} s"
    return False, name


def scene(view: SessionState) -> str:
    """How the place compares with its reference."""
    if view.phase != "reset":
        return "The scene is compared with its reference before a trial."
    if not view.has_reference:
        return "This place has no reference yet: the scene as it is when the trial starts is kept."
    if view.mismatch is None:
        return "There is nothing to compare with the reference yet."
    passed = view.mismatch <= view.max_mismatch
    verdict = "as the reference" if passed else "UNLIKE the reference; starting stays allowed"
    return f"Mismatch {view.mismatch:.2f}, passes up to {view.max_mismatch:.2f}: {verdict}."


def trial(view: SessionState) -> str:
    """Which one it is; the method by its code alone."""
    if not view.task:
        return ""
    again = f", attempt {view.turn.attempt + 1}" if view.turn.attempt else ""
    place = f", place {view.place}" if view.place else ""
    return f"{view.task}, trial {view.trial}{place}{again}"


def phase(view: SessionState) -> str:
    """What is going on."""
    if view.busy:
        return f"Wait: {view.busy}"
    if view.phase == "judging" and view.proposed:
        return f"How did it go? {view.proposed}"
    return PHASES[view.phase]


def hint(view: SessionState) -> str:
    """What the operator is to do."""
    ended = f"{view.ended}; " if view.phase == "judging" and view.ended else ""
    return ended + HINTS[view.phase]


def left(view: SessionState) -> str:
    """Time and steps."""
    if view.phase not in ("running", "judging"):
        return f"{view.max_steps} steps, {view.max_seconds:.0f} s at most" if view.task else ""
    left_s = max(view.max_seconds - view.seconds, 0.0)
    steps = max(view.max_steps - view.steps, 0)
    return f"{view.seconds:.1f} s, {view.steps} steps; {left_s:.1f} s, {steps} steps left"


def alarm(view: SessionState) -> str:
    """What does not work or is missing, each with how to mend it."""
    lines = [view.trouble] if view.trouble else []
    if not view.busy:
        lines += [f"{one.what}: {one.mend}" for one in view.missing]
    return "\n".join(lines)


def last(view: SessionState) -> str:
    """Of the trial before, and what comes of the run."""
    lines = [f"Written down: {view.last}"] if view.last else []
    lines += [f"The twin's judge says: {view.judge}"] if view.judge else []
    lines += [f"{code} is {method}" for code, method in view.names]
    lines += [f"report: {view.report}"] if view.report else []
    return "\n".join(lines)


def steps(view: SessionState) -> list[str]:
    """Buttons of the rubric, from none of its steps to all."""
    if not view.rubric:
        return []
    return ["0 none", *(f"{n} {name}" for n, name in enumerate(view.rubric, 1))]


def is_enabled(view: SessionState, deed: str) -> bool:
    """Whether an order would be followed now."""
    if view.busy:
        return False
    if deed in ("success", "failure"):
        return view.phase in ("running", "judging") and view.proposed != "aborted"
    mends = {one.deed for one in view.missing}
    return {
        "start": view.may_start,
        "invalid": view.phase in ("running", "judging"),
        "write": view.phase == "judging" and bool(view.proposed),
        "keep": view.phase == "reset",
        "release": "release" in mends and view.phase not in ("running", "closed"),
        "retry": view.phase in ("closed", "preparing")
        or (view.phase == "reset" and "retry" in mends),
        "unblind": view.phase == "done" and not view.names,
    }[deed]  # fmt: skip
