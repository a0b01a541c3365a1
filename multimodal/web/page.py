"""The page: which event of which component calls what on the `ChatController`."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import gradio as gr
from starlette.requests import Request
from starlette.responses import FileResponse
from starlette.routing import Route

from multimodal.access import owner_of_cookie, resolve_owner
from multimodal.build import Program
from multimodal.errors import MultimodalError
from multimodal.messages import Controls
from multimodal.web import gauge
from multimodal.web.actions import field_of, read_conversation, read_moment, unknown_action
from multimodal.web.chat_controller import ChatController
from multimodal.web.chat_view import Frame
from multimodal.web.controls import ControlEvents, from_inputs, to_inputs
from multimodal.web.incoming import browser_of
from multimodal.web.layout import TITLE, Layout
from multimodal.web.studio.services import Services, services_of
from multimodal.web.tab_session import TabSession

HERE = Path(__file__).parent
UPLOADS_S = (600, 3600)
"""How often Gradio looks, and how old an upload may become; a message keeps its own copy. Gradio
names an upload by its content, so one that was sent may be another person's that was not yet."""

NOW_AND_REST = "(_, ...rest) => [performance.now(), ...rest]"
"""In the browser: puts the time in the place of the first input."""


class Page:
    """Builds the Blocks of one program. `secret` is told to every browser, `media_secret` to
    nobody; see `settings`. The first owner of a browser is made with the latter, too."""

    def __init__(
        self,
        program: Program,
        secret: str,
        media_secret: str,
        examples: Path | None = None,
        grace_s: float = 0.0,
        studio: Services | None = None,
    ) -> None:
        self.program = program
        self._studio = studio or services_of(program)
        self._own_secret = media_secret
        with gr.Blocks(
            title=TITLE, fill_height=True, analytics_enabled=False, delete_cache=UPLOADS_S
        ) as self.blocks:
            self.ui = Layout(program, secret, examples)
            self.controller = ChatController(program, media_secret, self.ui.examples, grace_s)
            self._wire()

    def routes(self) -> list[Route]:
        """What the page needs besides Gradio's own routes."""
        controller = self.controller
        return [
            *controller.addresses.routes(),
            *controller.reader.routes(),
            *controller.talk.routes(),
            *self.ui.studio.routes(),
            Route("/microphone.js", _microphone_worklet),
        ]

    def close(self) -> None:
        """Stop every reply that is under way."""
        self.ui.menu.close()
        self.controller.presence.close()
        self.controller.close()

    # ------------------------------------------------------------ wiring

    def _wire(self) -> None:
        ui, state = self.ui, [self.ui.session]
        quiet: dict[str, Any] = {
            "api_visibility": "private",
            "show_progress": "hidden",
            "concurrency_limit": None,
        }
        opened = [ui.chat, ui.list, ui.browser, ui.set_for, *ui.controls]
        self.blocks.unload(self._leave)
        ticking = [ui.gauge, ui.model, *ui.upgrades.outputs]
        ui.timer.tick(self._tick, state, ticking, **quiet)
        ui.upgrades.wire(ui.session, quiet)
        ui.saved.wire(quiet)
        ui.studio.wire(self._studio, self._own_secret, ui.session, quiet)
        self._wire_chat(state, quiet)
        each = quiet | {"trigger_mode": "multiple"}
        openings = (
            self.blocks.load(self._enter, [ui.browser, *state], opened, **quiet),
            ui.new.click(self._open_new, [ui.pressed, *state], opened, js=NOW_AND_REST, **each),
            # Gradio's "always_last" would open what the first of several clicks named.
            ui.list.select(self._open, state, opened, **each),
            ui.list.delete(self._delete, state, opened, **each),
            ui.list.undo(self._restore, state, opened, **each),
            ui.studio.component.select(self._open_with, state, opened, **each),
        )
        openings[0].then(self._tick, state, ticking, **quiet)  # the timer's first is a while off
        ui.list.expand(self._show_older, state, ui.list, **quiet)
        events = ControlEvents(ui, self.program.store)
        events.wire(quiet)
        for opening in openings:
            self._follow_after(opening, state, each)
            events.update_sizes_after(opening, quiet)
        fit = ui.fit
        for asked in (fit.ask.click, fit.budget.submit):
            asked(
                fit.work_out,
                [fit.profile, fit.models, fit.budget],
                fit.told,
                **(quiet | {"show_progress": "full"}),
            )

    def _wire_chat(self, state: list[Any], quiet: dict[str, Any]) -> None:
        """Both events of the pane carry an action; only `submit` may begin an answer, and only it
        brings what is set on the side: nothing there keeps anybody from stopping."""
        ui = self.ui
        each = quiet | {"trigger_mode": "multiple"}
        shown = [ui.chat, ui.list, ui.browser]
        for event in (
            ui.chat.submit(self._act, [*state, *ui.controls], [*shown, ui.set_for], **each),
            ui.chat.input(self._ask, state, shown, **each),
        ):
            self._follow_after(event, state, each)

    def _follow_after(self, event: Any, state: list[Any], each: dict[str, Any]) -> None:
        """After an event that may show an answer under way: show how it grows. The newest of those
        that follow takes over, so none may be left out because an older one still ends."""
        ui = self.ui
        event.then(self._follow, state, [ui.chat], **each).then(
            self._finish_turn, state, [ui.list, ui.browser], **each
        )

    # ------------------------------------------------------------ coming and going

    def _enter(
        self, browser: dict[str, str] | None, session: TabSession, request: gr.Request
    ) -> list[Any]:
        known, cookie = browser or {}, browser_of(request.cookies)
        first = owner_of_cookie(self._own_secret, cookie) if cookie else None
        login = getattr(request, "username", None)
        session.owner = resolve_owner(login, known.get("owner"), first)
        self.controller.presence.enter(_tab(request), session.owner)
        self.ui.menu.size_up()
        return self._opened(session, known.get("conversation", ""))

    def _see(self, session: TabSession, request: gr.Request, is_tick: bool = False) -> None:
        if session.owner:
            self.controller.presence.see(_tab(request), session.owner, is_tick)

    def _leave(self, request: gr.Request) -> None:
        self.controller.presence.leave(_tab(request))

    def _tick(self, session: TabSession, request: gr.Request) -> list[Any]:
        self._see(session, request, is_tick=True)
        return [self._gauge(), self.ui.menu.changes(session), *self.ui.upgrades.updates(session)]

    def _gauge(self) -> str:
        return gauge.gauge(self.program.memory.snapshot(), self.program.catalog.title)

    def _opened(
        self, session: TabSession, conversation: str, pressed: float | None = None
    ) -> list[Any]:
        with _show_errors():
            shown = self.controller.view.open(session, conversation, pressed)
            controls = self.controller.controls(session, shown["chat"])
        while session.conversation != shown["chat"]:  # the person went on while it was read
            with _show_errors():
                shown = self.controller.view.show(session)
                controls = self.controller.controls(session, shown["chat"])
        session.model = self.ui.quantization.menu_entry(controls.model)
        return [
            _packed(shown),
            self._list(session),
            self._browser(session),
            shown["chat"],
            *to_inputs(self.ui, controls),
        ]

    def _open(self, event: gr.EventData, session: TabSession) -> list[Any]:
        with _show_errors():
            conversation = read_conversation(event)
            pressed = read_moment(field_of(event, "pressed"))
        return self._opened(session, conversation, pressed)

    def _open_new(self, pressed: float, session: TabSession) -> list[Any]:
        with _show_errors():
            return self._opened(session, "", read_moment(pressed))

    def _open_with(self, event: gr.EventData, session: TabSession) -> list[Any]:
        """A new chat with the model that the studio names."""
        with _show_errors():
            model = self.program.card(str(field_of(event, "model"))).name
            pressed = read_moment(field_of(event, "pressed"))
        opened, place = self._opened(session, "", pressed), 4  # of the model among the outputs
        session.model = model
        opened[place] = self.ui.menu.update(model)
        return opened

    def _delete(self, event: gr.EventData, session: TabSession) -> list[Any]:
        with _show_errors():
            was_open = self.controller.list.delete(session, read_conversation(event))
        return self._opened(session, "") if was_open else self._relisted(session)

    def _restore(self, event: gr.EventData, session: TabSession) -> list[Any]:
        with _show_errors():
            conversation = read_conversation(event)
            goes_back = self.controller.list.restore(session, conversation)
        return self._opened(session, conversation) if goes_back else self._relisted(session)

    def _show_older(self, session: TabSession) -> Frame:
        with _show_errors():
            return self.controller.list.show_older(session)

    def _relisted(self, session: TabSession) -> list[Any]:
        """The outputs of `_opened` where the tab stays where it is."""
        ui = self.ui
        stays = [gr.skip() for _ in (ui.set_for, *ui.controls)]
        return [gr.skip(), self._list(session), self._browser(session), *stays]

    def _list(self, session: TabSession) -> Frame:
        return self.controller.list.frame(session)

    def _browser(self, session: TabSession) -> dict[str, str]:
        return {"owner": session.owner, "conversation": session.conversation}

    # ------------------------------------------------------------ the chat

    def _act(
        self, event: gr.EventData, request: gr.Request, session: TabSession, *controls: Any
    ) -> list[Any]:
        frame = self._acted(event, request, session, lambda: from_inputs(self.ui, *controls))
        sent_in = [receipt.get("chat") for receipt in frame["receipts"]]
        set_for = frame["chat"] if frame["chat"] in sent_in else gr.skip()
        return [*self._shown(session, frame), set_for]

    def _ask(self, event: gr.EventData, request: gr.Request, session: TabSession) -> list[Any]:
        return self._shown(session, self._acted(event, request, session, _no_controls))

    def _acted(
        self,
        event: gr.EventData,
        request: gr.Request,
        session: TabSession,
        read_controls: Callable[[], Controls],
    ) -> Frame:
        self._see(session, request)
        return self.controller.act(session, field_of(event, "action"), read_controls)

    def _shown(self, session: TabSession, frame: Frame) -> list[Any]:
        return [_packed(frame), self._list(session), self._browser(session)]

    def _follow(self, session: TabSession, request: gr.Request) -> Iterator[Any]:
        is_following = False
        for frame in self.controller.view.follow(session):
            is_following = True
            self._see(session, request)
            yield _packed(frame)
        if not is_following:
            yield gr.skip()

    def _finish_turn(self, session: TabSession) -> tuple[Frame, dict[str, str]]:
        return self._list(session), self._browser(session)


async def _microphone_worklet(_request: Request) -> FileResponse:
    """What hands the microphone's sound on runs beside the page, from a file of its own."""
    return FileResponse(HERE / "microphone_worklet.js", media_type="text/javascript")


def _tab(request: gr.Request) -> str:
    return request.session_hash or ""


def _packed(frame: Frame) -> str:
    """A frame as text: of values in a stream Gradio sends what changed since the one before, and
    frames are not versions of each other."""
    return json.dumps(frame)


def _no_controls() -> Controls:
    raise unknown_action()


@contextmanager
def _show_errors() -> Iterator[None]:
    """Show a person's error as a toast with its one sentence."""
    try:
        yield
    except MultimodalError as error:
        raise gr.Error(str(error), duration=15, print_exception=False) from error
