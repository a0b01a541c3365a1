"""From the end of a spoken question to the first sound of its answer, in parts.

    python -m benchmarks.talking [--rounds 10] [--out FILE] [options of the program]

A browser's microphone hears a question of about three seconds, said by the embedded voice; the page
talks hands-free. Of each round: `turn`, from the last loud block of the microphone until the page
has the words (silence that ends the turn, and hearing); `word`, until the first word of the answer
stands on the page; `sound`, until its sound begins to play. Times depend on what else the machine
does, and a block of the microphone is 64 ms long.
"""

from __future__ import annotations

import argparse
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx2 as httpx
import numpy as np
from playwright.sync_api import Browser, Page, sync_playwright

from benchmarks.figures import tell
from multimodal.backends.base import load
from multimodal.build import read_catalog
from multimodal.events import SpeechGenerated
from multimodal.limits import Limits
from multimodal.media.audio import SAMPLE_RATE, decode, wav
from multimodal.requests import TTSRequest
from multimodal.settings import read_settings
from multimodal.weights import Weights

QUESTION = "What is the capital of France, and on which river is it?"
VOICE = "piper-joe-en-us"
PORT = 7899
QUIET_S = 8.0
WATCH = """
window.marks = { loud: 0 };
const plainFetch = window.fetch;
window.fetch = async (address, options = {}) => {
  if (!String(address).includes("listen/") || !(options.body instanceof Int16Array))
    return plainFetch(address, options);
  const peak = options.body.reduce((most, value) => Math.max(most, Math.abs(value)), 0);
  if (peak > 1000) window.marks.loud = performance.now();
  const reply = await plainFetch(address, options);
  const { heard = [] } = await reply.clone().json();
  if (heard.some(({ kind }) => kind === "turn")) window.marks.turn = performance.now();
  return reply;
};
const begin = AudioBufferSourceNode.prototype.start;
AudioBufferSourceNode.prototype.start = function (when) {
  const later = when - this.context.currentTime + this.context.outputLatency;
  window.marks.sound ??= performance.now() + 1000 * later;
  begin.call(this, when);
};
setInterval(() => {
  if (!window.marks.turn || window.marks.word) return;
  const last = [...document.querySelectorAll(".message.assistant .body")].at(-1);
  const answered = document.querySelectorAll(".message.assistant").length;
  const asked = document.querySelectorAll(".message.user:not(.pending)").length;
  if (answered === asked && last?.textContent.trim()) window.marks.word = performance.now();
}, 10);
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--out", type=Path)
    asked, options = parser.parse_known_args()
    with tempfile.TemporaryDirectory() as folder, sync_playwright() as playwright:
        recording, seconds = question(Path(folder))
        browser = playwright.chromium.launch(
            executable_path=shutil.which("chromium"),
            args=[
                "--no-sandbox",
                "--use-fake-ui-for-media-stream",
                "--use-fake-device-for-media-stream",
                f"--use-file-for-fake-audio-capture={recording}%noloop",
                "--autoplay-policy=no-user-gesture-required",
            ],
        )
        with running(Path(folder) / "data", options) as url:
            load_models(browser, url)
            rounds = [talk(browser, url) for _ in range(asked.rounds)]
        browser.close()
    parts = {name: [one[name] for one in rounds] for name in rounds[0]}
    found = {name: round(statistics.median(values), 2) for name, values in parts.items()}
    tell({"question_s": round(seconds, 2), "median_s": found, "rounds": parts}, asked.out)


def question(folder: Path) -> tuple[Path, float]:
    """The recording of a microphone, and how long the question in it is."""
    settings = read_settings()
    catalog, weights = read_catalog(settings), Weights(settings.weights_folder, settings.offline)
    card = catalog.card(VOICE)
    voice: Any = load(card, weights.ensure(card), "cpu")
    *_, spoken = voice.run(TTSRequest(QUESTION, "en"), threading.Event())
    assert isinstance(spoken, SpeechGenerated)
    said = decode(spoken.wav, "question.wav", Limits())
    loud = np.flatnonzero(np.abs(said) > 0.03)
    said = said[loud[0] : loud[-1]]
    voice.close()
    quiet = np.zeros(int(QUIET_S * SAMPLE_RATE), np.float32)
    path = folder / "question.wav"
    path.write_bytes(wav(np.concatenate([quiet, said, quiet, quiet, quiet])))
    return path, len(said) / SAMPLE_RATE


@contextmanager
def running(data: Path, options: list[str]) -> Iterator[str]:
    url = f"http://127.0.0.1:{PORT}"
    command = [sys.executable, "app.py", "--data", str(data), "--port", str(PORT), *options]
    weights = {"MULTIMODAL_WEIGHTS": str(read_settings().weights_folder)}
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, env=os.environ | weights)
    try:
        while True:
            try:
                httpx.get(f"{url}/health").raise_for_status()
                break
            except httpx.HTTPError:
                time.sleep(0.5)
        yield url
    finally:
        process.terminate()
        process.wait(30)


def load_models(browser: Browser, url: str) -> None:
    page = browser.new_page()
    page.goto(url)
    page.get_by_role("button", name="Talk hands-free").click()
    page.wait_for_selector(".talk[data-phase=listening]", timeout=600_000)
    page.close()


def talk(browser: Browser, url: str) -> dict[str, float]:
    """One conversation of one question; the seconds of its parts."""
    context = browser.new_context()
    context.add_init_script(WATCH)
    page: Page = context.new_page()
    page.goto(url)
    page.get_by_role("button", name="Talk hands-free").click()
    page.wait_for_function("() => window.marks.sound && window.marks.word", timeout=120_000)
    marks = page.evaluate("() => window.marks")
    context.close()
    return {
        "turn": (marks["turn"] - marks["loud"]) / 1000,
        "word": (marks["word"] - marks["turn"]) / 1000,
        "sound": (marks["sound"] - marks["word"]) / 1000,
        "whole": (marks["sound"] - marks["loud"]) / 1000,
    }


if __name__ == "__main__":
    main()
