"""The end of the program: whatever is decoded or streamed at that moment ends with it."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from conftest import ROOT, wait_until
from fake_page import running_page
from fakes import client_at

from multimodal.errors import TurnStoppedError
from multimodal.media.ingestion import MediaFolder
from multimodal.requests import TextRequest

DECODES = """
import sys, threading
from pathlib import Path
from fakes import FakeSource, program

made = program(Path(sys.argv[1]), FakeSource())
intake, begun = made.media.intake(), threading.Event()

def endless() -> bytes:
    begun.set()
    intake.stop.wait()
    return b"x"

threading.Thread(target=made.media.add_image, args=(endless, "a.png", intake), daemon=True).start()
assert begun.wait(30)
made.close()
print("closed")
"""
"""A picture that is decoded until nobody waits for it any more, while the program is closed."""


def test_a_program_ends_although_it_is_decoding(tmp_path: Path) -> None:
    folders = os.pathsep.join([str(ROOT), str(ROOT / "tests/fixtures")])
    done = subprocess.run(
        [sys.executable, "-c", DECODES, str(tmp_path)],
        env={**os.environ, "PYTHONPATH": folders},
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    assert done.stdout == "closed\n"


def test_nothing_is_decoded_after_the_end(tmp_path: Path) -> None:
    media = MediaFolder(tmp_path)
    media.close()
    with pytest.raises(TurnStoppedError):
        media.add_image(b"x", "a.png")


def test_a_stream_under_way_ends_with_the_server(tmp_path: Path) -> None:
    def endless(_request: TextRequest) -> Iterator[str]:
        while True:
            threading.Event().wait(0.01)
            yield "word "

    def listen(url: str) -> None:
        with client_at(url) as client:
            asked: Any = {"model": "auto", "messages": [{"role": "user", "content": "hello"}]}
            for chunk in client.chat.completions.create(**asked, stream=True):
                if chunk.choices and chunk.choices[0].delta.content:
                    heard.set()

    heard, pool = threading.Event(), ThreadPoolExecutor(1)
    with running_page(tmp_path) as page:
        page.source.script = endless
        listener = pool.submit(listen, page.url)
        assert heard.wait(30)
        assert page.source.active == 1
    wait_until(lambda: page.source.active == 0)
    listener.result(60)
