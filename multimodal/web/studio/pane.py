"""The studio's component, made with `gr.HTML` like the chat pane, and the way to it.

Its markup, looks and behaviour are `shell.html`, `studio.css` and `studio.js`; what it shows comes
from the server as parts of HTML (`controller.py`). It answers with two events: `submit` carries an
action (`actions.py`), `select` opens a new chat with a model. Its value goes out only, never in.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import gradio as gr
from starlette.routing import Route

from multimodal.web.actions import field_of, nonce_of
from multimodal.web.studio.controller import StudioController
from multimodal.web.studio.downloads import Downloads
from multimodal.web.studio.export_view import exported_files
from multimodal.web.studio.services import Services
from multimodal.web.studio.tab import Frame, StudioTab
from multimodal.web.tab_session import TabSession

HERE = Path(__file__).parent
TICK_S = 2.0
LINK = '<a href="#studio"><span aria-hidden="true">◍</span> Studio</a>'


class StudioPane:
    """Builds its components inside the Blocks that is open."""

    def __init__(self) -> None:
        self._controller: StudioController
        self._downloads: Downloads

    def build_side(self) -> None:
        gr.HTML(LINK, elem_id="to-studio")

    def build_main(self) -> None:
        self.component = gr.HTML(
            "",
            elem_id="studio",
            html_template=(HERE / "shell.html").read_text("utf-8"),
            js_on_load=(HERE / "studio.js").read_text("utf-8"),
            apply_default_css=False,
        )
        self._tab = gr.State(StudioTab())
        self._timer = gr.Timer(TICK_S, active=False)

    def wire(
        self, services: Services, secret: str, session: gr.State, quiet: dict[str, Any]
    ) -> None:
        """`secret`: of the server, for the addresses of what is downloaded."""
        folder = services.settings.page_cache
        self._downloads = Downloads(
            secret,
            folder,
            services.export_job,
            lambda id: exported_files(services.exports.of(id)),
        )
        self._controller = StudioController(services, self._downloads)
        states = [self._tab, session]
        shown = [self.component, self._timer]
        each = quiet | {"trigger_mode": "multiple"}
        self.component.submit(self._act, states, shown, **each)
        self._timer.tick(self._update, states, [self.component], **quiet)

    def routes(self) -> list[Route]:
        return self._downloads.routes()

    def _act(self, event: gr.EventData, tab: StudioTab, session: TabSession) -> list[Any]:
        data = field_of(event, "action")
        if not session.owner:
            # The page has not said yet whose it is: it asks again.
            frame = tab.packet({"nonce": nonce_of(data), "again": True})
            return [_packed(frame), gr.skip()]
        frame = self._controller.act(tab, session.owner, data)
        # From the first look on for good: answers may overtake one another, and one of the form
        # that came behind that of a job's page would stop what follows the job.
        return [_packed(frame), gr.Timer(active=True)]

    def _update(self, tab: StudioTab, session: TabSession) -> Any:
        frame = self._controller.update(tab, session.owner)
        return gr.skip() if frame is None else _packed(frame)


def _packed(frame: Frame) -> str:
    return json.dumps(frame)
