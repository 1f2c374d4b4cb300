"""Texts of the operator's page, and which action is enabled in which state."""

from nac_ros.trials.session_state import SessionState
from nac_ros.trials.trial_robot import image_problem

PHASE_TITLES = {
    "no_run": "There is no run yet",
    "loading": "Wait",
    "setup": "Set up the scene",
    "running": "The policy drives",
    "verdict": "How did it go?",
    "finished": "All trials are done",
}
PHASE_HINTS = {
    "no_run": "you can stop the arm all the same",
    "loading": "the method and the scene are being loaded",
    "setup": "put the objects at their start position, compare with the reference, step back",
    "running": "press success or failure as soon as the criteria decide; the arm then stops",
    "verdict": "choose the outcome, add rubric steps and a note, then save",
    "finished": "unblind the run to see which method was which",
}


def camera_label(name: str, age_s: float) -> tuple[bool, str]:
    """Whether a camera is lost, and the text on its image."""
    problem = image_problem(age_s)
    return bool(problem), f"{name}: {problem}" if problem else name


def scene(state: SessionState) -> str:
    """How the scene compares with its reference."""
    if state.phase != "setup":
        return "The scene is compared with its reference before a trial."
    if not state.has_reference:
        return "No reference yet: the scene at the start of this trial will be saved as reference."
    if state.mismatch is None:
        return "There is no image to compare with the reference yet."
    matches = state.mismatch <= state.max_mismatch
    verdict = "like the reference" if matches else "UNLIKE the reference; you can still start"
    return f"Mismatch {state.mismatch:.2f}, allowed {state.max_mismatch:.2f}: {verdict}."


def trial(state: SessionState) -> str:
    """Task, trial, start position and attempt."""
    if not state.task:
        return ""
    attempt = f", attempt {state.trial_id.attempt + 1}" if state.trial_id.attempt else ""
    position = f", start position {state.start_position}" if state.start_position else ""
    return f"{state.task}, trial {state.trial}{position}{attempt}"


def phase(state: SessionState) -> str:
    """Title of the current phase."""
    if state.operation:
        return f"Wait: {state.operation}"
    if state.phase == "verdict" and state.proposed_outcome:
        return f"{PHASE_TITLES['verdict']} {state.proposed_outcome}"
    return PHASE_TITLES[state.phase]


def hint(state: SessionState) -> str:
    """What the operator should do."""
    ended = f"{state.end_reason}; " if state.phase == "verdict" and state.end_reason else ""
    return ended + PHASE_HINTS[state.phase]


def time_left(state: SessionState) -> str:
    """Time and steps, used and left."""
    if state.phase not in ("running", "verdict"):
        return f"at most {state.max_steps} steps, {state.max_seconds:.0f} s" if state.task else ""
    left_s = max(state.max_seconds - state.seconds, 0.0)
    left = max(state.max_steps - state.steps, 0)
    return f"{state.seconds:.1f} s, {state.steps} steps; {left_s:.1f} s, {left} steps left"


def alarm(state: SessionState) -> str:
    """The last error, and everything that blocks the start, each with its remedy."""
    lines = [state.error] if state.error else []
    if not state.operation:
        lines += [f"{one.problem}: {one.remedy}" for one in state.blockers]
    return "\n".join(lines)


def messages(state: SessionState) -> str:
    """Status texts of the nodes, one per line."""
    return "\n".join(state.messages) or "no node reports anything"


def last_verdict(state: SessionState) -> str:
    """The verdict before; after unblinding also the methods and the report's path."""
    lines = [f"Saved: {state.last_verdict}"] if state.last_verdict else []
    if state.detected_outcome:
        lines.append(f"The twin's success detector says: {state.detected_outcome}")
    lines += [f"{code} is {method}" for code, method in state.methods_by_code]
    lines += [f"report: {state.report_path}"] if state.report_path else []
    return "\n".join(lines)


def rubric_buttons(state: SessionState) -> list[str]:
    """Labels of the rubric's buttons, from no step to all."""
    if not state.rubric:
        return []
    return ["0 none", *(f"{n} {name}" for n, name in enumerate(state.rubric, 1))]


def is_enabled(state: SessionState, action: str) -> bool:
    """Whether an action would be accepted now."""
    if state.operation:
        return False
    phase, can_judge = state.phase, state.phase in ("running", "verdict")
    remedies = {blocker.action for blocker in state.blockers}
    return {
        "start": state.can_start,
        "success": can_judge and state.proposed_outcome != "aborted",
        "failure": can_judge and state.proposed_outcome != "aborted",
        "invalid": can_judge,
        "save": phase == "verdict" and bool(state.proposed_outcome),
        "save_reference": phase == "setup",
        "reset_guard": "reset_guard" in remedies and phase not in ("running", "no_run"),
        "retry": phase in ("no_run", "loading") or (phase == "setup" and "retry" in remedies),
        "unblind": phase == "finished" and not state.methods_by_code,
    }[action]
