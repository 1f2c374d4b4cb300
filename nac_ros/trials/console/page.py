"""The operator's page: built once for each browser, filled anew some times a second."""

from html import escape
from typing import Any

from nicegui import ui

from nac_ros.core.errors import NacError
from nac_ros.trials.console import text as console_text
from nac_ros.trials.console.assets import SCRIPT, STYLE
from nac_ros.trials.console.controller import ConsoleController
from nac_ros.trials.session_state import NO_TRIAL, SessionState, TrialId

REFRESH_S = 0.15
SIZE = "no-caps unelevated"


def offer(desk: ConsoleController) -> None:
    """The page at `/`."""

    @ui.page("/", title="Trials")
    def operator() -> None:
        Page(desk)


class Page:
    """One browser's elements; all state is the sitting's, so pages agree and may be reloaded."""

    def __init__(self, desk: ConsoleController):
        self._desk = desk
        self._texts: dict[str, str] = {"note": "", "reason": ""}
        self._turn = NO_TRIAL
        self._buttons: dict[str, ui.button] = {}
        self._steps: list[ui.button] = []
        ui.add_head_html(f"<style>{STYLE}</style>")
        ui.add_body_html(f"<script>{SCRIPT}</script>")
        ui.on("deed", self._on_deed)
        with ui.element("div").classes("sitting"):
            with ui.element("div").classes("half"):
                self._build_cameras()
            with ui.element("div").classes("half"):
                self._build_trial()
                self._build_deeds()
        self._fill()
        ui.timer(REFRESH_S, self._fill)

    def _build_cameras(self) -> None:
        self._cameras: dict[str, Any] = {}
        with ui.element("div").classes("cameras"):
            for n, name in enumerate(self._desk.cameras()):
                with ui.element("div").classes("view") as view:
                    ui.html(_live(name), sanitize=False).classes("picture")
                    if n == 0:
                        self._blend = _over("reference/picture")
                        self._edges = _over("reference/edges")
                    self._cameras[name] = (view, ui.label().classes("name"))
        with ui.element("div").classes("box"):
            self._scene = ui.label().classes("scene lines")
            with ui.element("div").classes("bar tools"):
                ui.label("reference over the live view")
                self._opacity = ui.slider(min=0, max=1, step=0.05, value=0.4).style("width: 9rem")
                self._outlines = ui.switch("outlines", value=True).classes("outlines")
                self._button("keep", "Keep as reference  [K]", "grey-8")
        self._words = ui.label().classes("box small lines words")
        self._last = ui.label().classes("box small lines last")

    def _build_trial(self) -> None:
        self._at = ui.label().classes("turn")
        with ui.element("div").classes("box bar"):
            self._code = ui.label().classes("code")
            self._trial = ui.label()
            self._count = ui.label().classes("small")
        with ui.element("div").classes("box"):
            self._phase = ui.label().classes("phase")
            self._hint = ui.label().classes("small")
            self._time = ui.label().classes("time")
        self._alarm = ui.label().classes("box alarm")
        self._button("release", "Reset the guard  [G]", "deep-orange-10")
        self._button("retry", "Load again  [R]", "blue-9")
        self._button("unblind", "Unblind the run, write its report  [U]", "blue-9")
        unheard = "The stop did not reach the node: use the emergency stop."
        ui.label(unheard).classes("box alarm unheard").style("display: none")
        with ui.element("div").classes("box") as self._task:
            self._prompt = ui.label().classes("prompt")
            self._success = ui.label().classes("success")
            self._failure = ui.label().classes("failure")

    def _build_deeds(self) -> None:
        stop = ui.button("ABORT, stop the arm  [Esc]", color="red-10").props(SIZE)
        stop.classes("deed stop act-abort").on("click", js_handler="() => stopArm()")
        with ui.element("div").classes("deeds"):
            self._button("start", "Start  [Space]", "blue-9", "wide")
            self._button("success", "Success  [S]", "green-9")
            self._button("failure", "Failure  [F]", "deep-orange-10")
            self._button("invalid", "Invalid  [I]", "grey-8")
            self._rubric = ui.element("div").classes("wide bar")
            self._reason = self._field("reason", "Why it is invalid (the cable was caught)")
            self._note = self._field("note", "Note  [N]")
            self._button("write", "Write the verdict down  [Enter]", "blue-9", "wide")

    def _button(self, deed: str, text: str, color: str, more: str = "") -> None:
        button = ui.button(text, color=color).props(SIZE).classes(f"deed act-{deed} {more}")
        self._buttons[deed] = button.on("click", js_handler=f"() => act('{deed}')")

    def _field(self, name: str, label: str) -> ui.input:
        def told(event: Any) -> None:
            self._texts[name] = event.value or ""
            session = self._desk.session
            if session is not None and self._turn != NO_TRIAL:
                self._try(lambda: session.tell(self._turn, **{name: event.value or ""}))

        field = ui.input(label, on_change=told).props("outlined dense")
        return field.classes(f"wide {name}")

    def _on_deed(self, event: Any) -> None:
        text = event.args[0] if isinstance(event.args, list) else event.args
        deed, _, turn = str(text).partition("|")
        slot, _, attempt = turn.partition(".")
        at = TrialId(int(slot), int(attempt)) if attempt.isdecimal() else NO_TRIAL
        self._try(lambda: self._desk.act(deed, at))
        self._fill()

    def _try(self, deed: Any) -> None:
        try:
            deed()
        except NacError as error:
            ui.notify(str(error), type="warning", position="top", timeout=4000)

    def _fill(self) -> None:
        view = self._desk.view()
        self._fill_cameras(view)
        self._fill_trial(view)
        self._fill_deeds(view)
        self._fill_fields(view)

    def _fill_cameras(self, view: SessionState) -> None:
        for name, age_s in view.ages:
            lost, text = console_text.camera(name, age_s)
            box, label = self._cameras[name]
            _mark(box, "lost", lost)
            label.set_text(text)
        shown = view.phase == "reset" and view.has_reference
        if self._cameras:
            self._blend.set_visibility(shown)
            self._edges.set_visibility(shown and bool(self._outlines.value))
            self._blend.style(f"opacity: {self._opacity.value}")
        self._scene.set_text(console_text.scene(view))
        self._words.set_text("\n".join(view.words) or "nobody says anything")

    def _fill_trial(self, view: SessionState) -> None:
        self._turn = view.turn
        self._at.set_text(str(view.turn))
        self._code.set_text(view.code)
        self._trial.set_text(console_text.trial(view))
        self._count.set_text(f"{view.judged} of {view.trials} judged")
        self._phase.set_text(console_text.phase(view))
        self._hint.set_text(console_text.hint(view))
        self._time.set_text(console_text.left(view))
        alarm = console_text.alarm(view)
        self._alarm.set_text(alarm)
        self._alarm.set_visibility(bool(alarm))
        self._task.set_visibility(bool(view.task))
        self._prompt.set_text(view.prompt)
        self._success.set_text(f"Success: {view.success}")
        self._failure.set_text(f"Failure: {view.failure}")
        last = console_text.last(view)
        self._last.set_text(last)
        self._last.set_visibility(bool(last))

    def _fill_deeds(self, view: SessionState) -> None:
        for deed, button in self._buttons.items():
            button.set_enabled(console_text.is_enabled(view, deed))
            _mark(button, "chosen", view.proposed == deed)
        for deed in ("retry", "release", "unblind"):
            self._buttons[deed].set_visibility(console_text.is_enabled(view, deed))
        judged = view.phase in ("running", "judging")
        for deed in ("success", "failure", "invalid", "write"):
            self._buttons[deed].set_visibility(judged)
        self._buttons["start"].set_visibility(not judged and view.phase != "done")
        self._rubric.set_visibility(judged and bool(view.rubric))
        self._note.set_visibility(bool(view.task))
        if [button.text for button in self._steps] != console_text.steps(view):
            self._rubric.clear()
            with self._rubric:
                self._steps = [
                    self._step(n, text) for n, text in enumerate(console_text.steps(view))
                ]
        for n, button in enumerate(self._steps):
            _mark(button, "chosen", view.reached == n)

    def _step(self, n: int, text: str) -> ui.button:
        button = ui.button(text, color="blue-grey-8").props(SIZE).classes(f"deed step-{n}")
        return button.on("click", js_handler=f"() => act('rubric:{n}')")

    def _fill_fields(self, view: SessionState) -> None:
        """Only with what another page wrote, or a new trial emptied: nobody is typed over."""
        for name, field in (("reason", self._reason), ("note", self._note)):
            said = getattr(view, name)
            if said != self._texts[name].strip():
                self._texts[name] = said
                field.set_value(said)
        self._reason.set_visibility(view.proposed == "invalid")


def _mark(element: ui.element, name: str, on: bool) -> None:
    """A class of CSS that an element has, or has not."""
    element.classes(add=name if on else None, remove=None if on else name)


def _live(name: str) -> str:
    """A camera's picture, which the page's script asks for anew again and again."""
    return f'<img data-src="/camera/{escape(name)}.jpg" alt="">'


def _over(path: str) -> ui.html:
    """A picture over another one, asked for as a live one is, since another place has another."""
    image = f'<img class="over" data-src="/{path}" data-every="1000" alt="">'
    return ui.html(image, sanitize=False).classes("picture")
