"""The list of chats: a component of our own, made with `gr.HTML` like the chat pane.

The server gives it rows; it answers with three events that name a conversation: `select` opens it,
`delete` deletes it and `undo` brings it back; a fourth, `expand`, asks for older ones. Its value
goes out only, never in.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gradio as gr

HERE = Path(__file__).parent
EMPTY: dict[str, Any] = {"stamp": 0, "current": "", "rows": [], "has_older": False}
TEMPLATE = """<nav class="list" aria-labelledby="list-name">
  <h2 id="list-name" class="unseen">Chats</h2>
  <div class="groups"></div>
  <p class="unseen status" role="status"></p>
</nav>"""


def conversation_list() -> gr.HTML:
    """The component, inside the Blocks that is open."""
    return gr.HTML(
        EMPTY,
        elem_id="conversations",
        html_template=TEMPLATE,
        js_on_load=(HERE / "conversation_list.js").read_text("utf-8"),
        apply_default_css=False,
    )
