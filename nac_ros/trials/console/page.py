"""The operator's page: built once per browser, updated several times a second."""

from collections.abc import Callable
from html import escape
from typing import Any

from nicegui import ui

from nac_ros.core.errors import NacError
from nac_ros.trials.console import text
from nac_ros.trials.console.assets import SCRIPT, STYLE
from nac_ros.trials.console.controller import ConsoleController
from nac_ros.trials.session_state import NO_TRIAL, SessionState, TrialId

REFRESH_S = 0.15
BUTTON_PROPS = "no-caps unelevated"
ON_DEMAND = ("reset_guard", "retry", "unblind")  # buttons that are shown only while enabled
VERDICT = ("success", "failure", "invalid", "save")  # buttons of a running or ended trial
Content = Callable[[SessionState], str]  # text of a label


def add_page(controller: ConsoleController) -> None:
    """Registers the page at `/`."""

    @ui.page("/", title="Trials")
    def operator() -> None:
        OperatorPage(controller)


class OperatorPage:
    """Elements of one browser page.

    All state is in the session, so pages agree with each other and can be reloaded at any time.
    """

    def __init__(self, controller: ConsoleController):
        self._controller, self._trial_id = controller, NO_TRIAL
        self._labels: list[tuple[ui.label, Content]] = []
        self._cameras: dict[str, tuple[ui.element, ui.label]] = {}
        self._buttons: dict[str, ui.button] = {}
        self._rubric_buttons: list[ui.button] = []
        self._fields: dict[str, ui.input] = {}
        self._texts: dict[str, str] = {}  # content of the fields as the browser last sent it
        ui.add_head_html(f"<style>{STYLE}</style>")
        ui.add_body_html(f"<script>{SCRIPT}</script>")
        ui.on("action", self._on_action)
        with ui.element("div").classes("session"):
            with ui.element("div").classes("page-column"):
                self._build_cameras()
            with ui.element("div").classes("page-column"):
                self._build_trial()
                self._build_actions()
        self._update()
        ui.timer(REFRESH_S, self._update)

    def _build_cameras(self) -> None:
        with ui.element("div").classes("cameras"):
            for n, name in enumerate(self._controller.cameras()):
                with ui.element("div").classes("camera") as camera:
                    _image(f'data-src="/camera/{escape(name)}.jpg"')
                    if n == 0:  # the reference is drawn over the first camera's image
                        self._reference = _image('data-src="/reference/image" data-every="1000"')
                        self._outline = _image('data-src="/reference/outlines" data-every="1000"')
                    self._cameras[name] = (camera, ui.label().classes("camera-name"))
        with ui.element("div").classes("box"):
            self._add_label("scene lines", text.scene)
            with ui.element("div").classes("bar tools"):
                ui.label("reference over the live image")
                self._opacity = ui.slider(min=0, max=1, step=0.05, value=0.4).style("width: 9rem")
                self._show_outline = ui.switch("outlines", value=True).classes("outlines")
                self._add_button("save_reference", "Save as reference  [K]", "grey-8")
        self._add_label("box small lines messages", text.messages)
        self._add_label("box small lines last-verdict", text.last_verdict)

    def _build_trial(self) -> None:
        self._add_label("trial-id", lambda state: str(state.trial_id))
        with ui.element("div").classes("box bar"):
            self._add_label("code", lambda state: state.code)
            self._add_label("", text.trial)
            self._add_label("small", lambda state: f"{state.n_completed} of {state.n_trials} done")
        with ui.element("div").classes("box"):
            self._add_label("phase", text.phase)
            self._add_label("small", text.hint)
            self._add_label("time", text.time_left)
        self._add_label("box alarm", text.alarm)
        self._add_button("reset_guard", "Reset the guard  [G]", "deep-orange-10")
        self._add_button("retry", "Load again  [R]", "blue-9")
        self._add_button("unblind", "Unblind the run, write the report  [U]", "blue-9")
        no_stop = ui.label("The stop did not reach the node: use the emergency stop.")
        no_stop.classes("box alarm stop-failed").style("display: none")
        with ui.element("div").classes("box") as self._task:
            self._add_label("prompt", lambda state: state.prompt)
            self._add_label("success", lambda state: f"Success: {state.success_criterion}")
            self._add_label("failure", lambda state: f"Failure: {state.failure_criterion}")

    def _build_actions(self) -> None:
        stop = ui.button("ABORT, stop the arm  [Esc]", color="red-10").props(BUTTON_PROPS)
        stop.classes("action stop action-abort").on("click", js_handler="() => stopArm()")
        with ui.element("div").classes("actions"):
            self._add_button("start", "Start  [Space]", "blue-9", "wide")
            self._add_button("success", "Success  [S]", "green-9")
            self._add_button("failure", "Failure  [F]", "deep-orange-10")
            self._add_button("invalid", "Invalid  [I]", "grey-8")
            self._rubric = ui.element("div").classes("wide bar")
            self._add_field("reason", "Why it is invalid, such as a caught cable")
            self._add_field("note", "Note  [N]")
            self._add_button("save", "Save the verdict  [Enter]", "blue-9", "wide")

    def _add_button(self, action: str, label: str, color: str, classes: str = "") -> None:
        button = ui.button(label, color=color).props(BUTTON_PROPS)
        button.classes(f"action action-{action} {classes}")
        self._buttons[action] = button.on("click", js_handler=f"() => act('{action}')")

    def _add_label(self, classes: str, content: Content) -> None:
        """Adds a label with text that depends on the state; a label without text is hidden."""
        self._labels.append((ui.label().classes(classes), content))

    def _add_field(self, name: str, label: str) -> None:
        def on_change(event: Any) -> None:
            value, shown = event.value or "", self._texts.get(name, "")
            self._texts[name] = value
            session = self._controller.session
            if value != shown and session is not None and self._trial_id != NO_TRIAL:
                self._try(lambda: session.annotate(self._trial_id, **{name: value}))

        field = ui.input(label, on_change=on_change).props("outlined dense")
        self._fields[name] = field.classes(f"wide {name}")

    def _on_action(self, event: Any) -> None:
        """Performs an action; the event holds `action|slot.attempt` of the trial on the page."""
        argument = event.args[0] if isinstance(event.args, list) else event.args
        action, _, trial = str(argument).partition("|")
        slot, _, attempt = trial.partition(".")
        trial_id = TrialId(int(slot), int(attempt)) if attempt.isdecimal() else NO_TRIAL
        self._try(lambda: self._controller.act(action, trial_id))
        self._update()

    def _try(self, call: Callable[[], None]) -> None:
        try:
            call()
        except NacError as error:
            ui.notify(str(error), type="warning", position="top", timeout=4000)

    def _update(self) -> None:
        state = self._controller.state()
        self._trial_id = state.trial_id
        for label, content in self._labels:
            label.set_text(content(state))
            label.set_visibility(bool(label.text))
        self._task.set_visibility(bool(state.task))
        self._update_cameras(state)
        self._update_actions(state)
        self._update_fields(state)

    def _update_cameras(self, state: SessionState) -> None:
        for name, age_s in state.image_ages:
            is_lost, label_text = text.camera_label(name, age_s)
            camera, label = self._cameras[name]
            _set_class(camera, "lost", is_lost)
            label.set_text(label_text)
        shown = state.phase == "setup" and state.has_reference
        if self._cameras:
            self._reference.set_visibility(shown)
            self._outline.set_visibility(shown and bool(self._show_outline.value))
            self._reference.style(f"opacity: {self._opacity.value}")

    def _update_actions(self, state: SessionState) -> None:
        in_trial = state.phase in ("running", "verdict")
        for action, button in self._buttons.items():
            is_enabled = text.is_enabled(state, action)
            button.set_enabled(is_enabled)
            _set_class(button, "chosen", state.proposed_outcome == action)
            if action in ON_DEMAND:
                button.set_visibility(is_enabled)
            elif action in VERDICT:
                button.set_visibility(in_trial)
        self._buttons["start"].set_visibility(not in_trial and state.phase != "finished")
        self._rubric.set_visibility(in_trial and bool(state.rubric))
        labels = text.rubric_buttons(state)
        if [button.text for button in self._rubric_buttons] != labels:
            self._rubric.clear()
            with self._rubric:
                self._rubric_buttons = [_rubric_button(n, label) for n, label in enumerate(labels)]
        for n, button in enumerate(self._rubric_buttons):
            _set_class(button, "chosen", state.steps_reached == n)

    def _update_fields(self, state: SessionState) -> None:
        """Shows texts that another page or a new trial changed, without disturbing the typing."""
        for name, field in self._fields.items():
            stored = getattr(state, name)
            if stored != self._texts.get(name, "").strip():
                self._texts[name] = stored
                field.set_value(stored)
        self._fields["reason"].set_visibility(state.proposed_outcome == "invalid")
        self._fields["note"].set_visibility(bool(state.task))


def _rubric_button(n: int, label: str) -> ui.button:
    button = ui.button(label, color="blue-grey-8").props(BUTTON_PROPS).classes(f"action step-{n}")
    return button.on("click", js_handler=f"() => act('rubric:{n}')")


def _set_class(element: ui.element, name: str, present: bool) -> None:
    """Adds or removes a CSS class."""
    element.classes(add=name if present else None, remove=None if present else name)


def _image(source: str) -> ui.html:
    """An image that the page's script requests again and again."""
    return ui.html(f'<img {source} alt="">', sanitize=False).classes("image")
