"""The chat pane: transcript and message box in one component of our own, made with `gr.HTML`.

Its markup, looks and behaviour are `chat.html`, `chat.css`, `chat.js` and `hands_free.js`. The
server gives it frames (`ChatController`); it answers with actions (`actions.py`) through two
events: `submit` for what begins an answer, `input` for everything else. Its value goes out only,
never in.
"""

from __future__ import annotations

import base64
import hashlib
import io
import json
from pathlib import Path
from typing import Any

import gradio as gr
from PIL import Image

from multimodal.limits import Limits

HERE = Path(__file__).parent
SCRIPTS = ("chat.js", "hands_free.js")
"""One after the other they are one function, run when the pane is there."""
THUMB_SIDE = 112
EMPTY: dict[str, Any] = {"chat": "", "epoch": 0, "version": 0, "whole": True, "messages": []}
ExampleMessage = tuple[str, list[Path]]
EXAMPLES: list[ExampleMessage] = [
    ("What is photosynthesis?", []),
    ("What is in this picture?", [Path("chelsea.jpg")]),
    ("What does it say?", [Path("printed-words.png")]),
    ("", [Path("question-en.wav")]),
]


def chat_pane(examples: list[ExampleMessage], limits: Limits) -> gr.HTML:
    """The component, inside the Blocks that is open."""
    return gr.HTML(
        json.dumps(EMPTY),
        elem_id="chat",
        html_template=(HERE / "chat.html").read_text("utf-8"),
        js_on_load="\n".join((HERE / name).read_text("utf-8") for name in SCRIPTS),
        apply_default_css=False,
        scale=1,
        examples=[_shown(example) for example in examples],
        limits={
            "files": limits.message_files,
            "fileBytes": limits.file_bytes,
            "seconds": int(limits.max_audio_s),
        },
    )


def example_messages(folder: Path | None) -> list[ExampleMessage]:
    """Words and files of the messages that an empty conversation offers."""
    if folder is None:
        return EXAMPLES[:1]
    placed = [(text, [folder / name for name in names]) for text, names in EXAMPLES]
    return [(text, paths) for text, paths in placed if all(path.exists() for path in paths)]


def draft_storage_key(owner: str) -> str:
    """Names the drafts of one person among those that a browser keeps; says not who it is."""
    return hashlib.sha256(f"drafts:{owner}".encode()).hexdigest()[:12]


def _shown(example: ExampleMessage) -> dict[str, str]:
    text, paths = example
    is_sound = any(path.suffix == ".wav" for path in paths)
    pictures = [path for path in paths if path.suffix in {".jpg", ".png"}]
    return {
        "text": text or "A spoken question",
        "kind": "audio" if is_sound else "image" if pictures else "text",
        "thumb": _thumb(pictures[0]) if pictures else "",
    }


def _thumb(path: Path) -> str:
    """A small square of a picture, inside its own address."""
    buffer = io.BytesIO()
    with Image.open(path) as picture:
        side = min(picture.size)
        left, top = (picture.width - side) // 2, (picture.height - side) // 2
        square = picture.convert("RGB").crop((left, top, left + side, top + side))
        square.resize((THUMB_SIDE, THUMB_SIDE)).save(buffer, "WEBP", quality=80)
    return f"data:image/webp;base64,{base64.b64encode(buffer.getvalue()).decode()}"
