"""The page: which event of which component calls what on the `Desk`."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

import gradio as gr

from multimodal.access import owner_of
from multimodal.build import Program
from multimodal.errors import MultimodalError
from multimodal.messages import Controls
from multimodal.web import gauge, render
from multimodal.web.controls import controls_of, filled
from multimodal.web.desk import Desk, Visitor
from multimodal.web.layout import TITLE, Layout
from multimodal.web.voice import hearing_of

UPLOADS_S = (600, 3600)
"""How often Gradio looks, and how old an upload may become; a message keeps its own copy. Gradio
names an upload by its content, so one that was sent may be another person's that was not yet."""


class Page:
    """Builds the Blocks of one program."""

    def __init__(self, program: Program, secret: str, examples: Path | None = None) -> None:
        self.program = program
        self.desk = Desk(program)
        self._visitors: dict[str, Visitor] = {}
        # What a message shows is served from where it is kept, not copied into Gradio's cache.
        gr.set_static_paths([program.settings.media_folder, *([examples] if examples else [])])
        with gr.Blocks(
            title=TITLE, fill_height=True, analytics_enabled=False, delete_cache=UPLOADS_S
        ) as self.blocks:
            self.ui = Layout(program, secret, examples)
            self._wire()

    # ------------------------------------------------------------ wiring

    def _wire(self) -> None:
        ui, state = self.ui, [self.ui.visitor]
        quiet: dict[str, Any] = {
            "api_visibility": "private",
            "show_progress": "hidden",
            "concurrency_limit": None,
        }
        opened = [ui.chat, ui.list, ui.browser, ui.box, *ui.controls]
        self.blocks.unload(self._leave)
        ui.timer.tick(self._tick, None, [ui.gauge, ui.fetching], **quiet)
        self._wire_talk(state, quiet)
        choice = [ui.delete, ui.sure, ui.keep]
        ui.delete.click(_ask, None, choice, **quiet)
        ui.keep.click(_unask, None, choice, **quiet)
        kind, voice = ui.quantization.choice, ui.voice.inputs
        changes = (
            self.blocks.load(self._enter, [ui.browser, *state], opened, **quiet),
            ui.new.click(self._open_new, state, opened, **quiet),
            ui.list.input(self._open, [ui.list, *state], opened, **quiet),
            ui.sure.click(self._delete, state, opened, **quiet).then(_unask, None, choice, **quiet),
            ui.model.input(self._choose, [ui.model, *voice], [kind, *voice], **quiet),
        )
        sizes = [
            change.then(ui.quantization.sized, [ui.model], [kind], **quiet) for change in changes
        ]
        # What is still being worked out is of another model by then.
        gr.on([ui.model.input, ui.new.click, ui.list.input], None, cancels=sizes)
        fit = ui.fit
        for asked in (fit.ask.click, fit.budget.submit):
            asked(
                fit.work_out,
                [fit.profile, fit.models, fit.budget],
                fit.told,
                **(quiet | {"show_progress": "full"}),
            )
        ui.reset.click(self._reset, None, ui.controls[2:], **quiet)

    def _wire_talk(self, state: list[Any], quiet: dict[str, Any]) -> None:
        ui, asked = self.ui, [*state, *self.ui.controls]
        begun = [
            ui.box.submit(self._say, [ui.box, *asked], [ui.box, ui.chat], **quiet),
            ui.chat.example_select(self._say_example, asked, [ui.box, ui.chat], **quiet),
            ui.chat.retry(self._retry, asked, [ui.box], **quiet),
            ui.chat.edit(self._edit, state, [ui.box], **quiet),
            ui.chat.option_select(self._redo, state, [ui.box, ui.redo_model], **quiet),
        ]
        for event in begun:
            event.success(
                self._answer, [ui.redo_model, *state], [ui.chat, ui.redo_model], **quiet
            ).then(self._rest, state, [ui.box, ui.list, ui.browser], **quiet)
        ui.box.stop(self._stop, state, None, **quiet)
        ui.chat.undo(self._undo, state, [ui.box, ui.chat, ui.list], **quiet)

    # ------------------------------------------------------------ coming and going

    def _enter(
        self, browser: dict[str, str] | None, visitor: Visitor, request: gr.Request
    ) -> list[Any]:
        known = browser or {}
        self._visitors[request.session_hash or ""] = visitor
        visitor.owner = owner_of(getattr(request, "username", None), known.get("owner"))
        return self._opened(visitor, known.get("conversation", ""))

    def _leave(self, request: gr.Request) -> None:
        if (visitor := self._visitors.pop(request.session_hash or "", None)) is not None:
            self.desk.leave(visitor)

    def _tick(self) -> tuple[str, str]:
        return self._gauge(), self._fetching()

    def _gauge(self) -> str:
        return gauge.gauge(self.program.memory.snapshot(), self.program.catalog.title)

    def _fetching(self) -> str:
        state, card = self.program.fetching, self.program.catalog.card
        progress = dict(state.progress)
        titles = {name: f"{card(name).title} ({card(name).license})" for name in progress}
        return gauge.fetching(progress, dict(state.errors), titles)

    def _opened(self, visitor: Visitor, conversation: str) -> list[Any]:
        with _told():
            shown = self.desk.open(visitor, conversation)
            controls = self.desk.controls(visitor)
        busy = self.desk.chats.is_busy(visitor.conversation)
        return [
            gr.Chatbot(cast(Any, shown.bubbles)),
            self._list(visitor),
            self._browser(visitor),
            gr.MultimodalTextbox(submit_btn=not busy, stop_btn=busy),
            *filled(self.ui, controls),
        ]

    def _open(self, conversation: str | None, visitor: Visitor) -> list[Any]:
        return self._opened(visitor, conversation or "")

    def _open_new(self, visitor: Visitor) -> list[Any]:
        return self._opened(visitor, "")

    def _delete(self, visitor: Visitor) -> list[Any]:
        with _told():
            self.desk.delete(visitor)
        return self._opened(visitor, "")

    def _list(self, visitor: Visitor) -> gr.Radio:
        return gr.Radio(choices=self.desk.headings(visitor), value=visitor.conversation or None)

    def _browser(self, visitor: Visitor) -> dict[str, str]:
        return {"owner": visitor.owner, "conversation": visitor.conversation}

    # ------------------------------------------------------------ talking

    def _say(
        self, box: dict[str, Any], visitor: Visitor, *controls: Any
    ) -> tuple[gr.MultimodalTextbox, list[render.Bubble]]:
        with _told():
            files = [Path(path) for path in box.get("files") or []]
            shown = self.desk.say(
                visitor, box.get("text") or "", files, controls_of(self.ui, *controls)
            )
        return _answering(value=None), shown.bubbles

    def _say_example(
        self, event: gr.SelectData, visitor: Visitor, *controls: Any
    ) -> tuple[gr.MultimodalTextbox, list[render.Bubble]]:
        text, files = self.ui.examples[_row(event.index)]
        with _told():
            shown = self.desk.say(visitor, text, files, controls_of(self.ui, *controls))
        return _answering(value=None), shown.bubbles

    def _answer(self, redo_model: str, visitor: Visitor) -> Iterator[tuple[Any, str]]:
        with _told():
            for shown in self.desk.answer(visitor, redo_model or None):
                yield (gr.skip() if shown is None else shown.bubbles), ""

    def _rest(self, visitor: Visitor) -> tuple[gr.MultimodalTextbox, gr.Radio, dict[str, str]]:
        busy = self.desk.chats.is_busy(visitor.conversation)
        box = gr.MultimodalTextbox(submit_btn=not busy, stop_btn=busy)
        return box, self._list(visitor), self._browser(visitor)

    def _retry(self, event: gr.RetryData, visitor: Visitor, *controls: Any) -> gr.MultimodalTextbox:
        with _told():
            self.desk.retry(visitor, _row(event.index), controls_of(self.ui, *controls))
        return _answering()

    def _edit(self, event: gr.EditData, visitor: Visitor) -> gr.MultimodalTextbox:
        with _told():
            self.desk.edit(visitor, _row(event.index), str(event.value))
        return _answering()

    def _redo(self, event: gr.SelectData, visitor: Visitor) -> tuple[gr.MultimodalTextbox, str]:
        with _told():
            self.desk.redo(visitor)
        return _answering(), str(event.value).removeprefix(render.REDO)

    def _undo(self, visitor: Visitor) -> tuple[gr.MultimodalTextbox, list[render.Bubble], gr.Radio]:
        with _told():
            text, files = self.desk.undo(visitor)
            shown = self.desk.show(visitor)
        box = gr.MultimodalTextbox(value={"text": text, "files": files})
        return box, shown.bubbles, self._list(visitor)

    def _stop(self, visitor: Visitor) -> None:
        self.desk.stop(visitor)

    # ------------------------------------------------------------ controls

    def _choose(self, model: str, language: str, translate_to: str, speak_in: str) -> list[Any]:
        asked = hearing_of(language, translate_to)
        return [self.ui.quantization.shown(model), *self.ui.voice.shown(model, asked, speak_in)]

    def _reset(self) -> list[Any]:
        return filled(self.ui, Controls())[2:]


@contextmanager
def _told() -> Iterator[None]:
    """Show a person's error as a toast with its one sentence."""
    try:
        yield
    except MultimodalError as error:
        raise gr.Error(str(error), duration=15, print_exception=False) from error


def _answering(**more: Any) -> gr.MultimodalTextbox:
    """The message box while an answer is written: a stop button in place of the send button."""
    return gr.MultimodalTextbox(submit_btn=False, stop_btn=True, **more)


def _row(index: int | Sequence[int]) -> int:
    return index if isinstance(index, int) else index[0]


def _ask() -> tuple[gr.Button, gr.Button, gr.Button]:
    return gr.Button(visible=False), gr.Button(visible=True), gr.Button(visible=True)


def _unask() -> tuple[gr.Button, gr.Button, gr.Button]:
    return gr.Button(visible=True), gr.Button(visible=False), gr.Button(visible=False)
