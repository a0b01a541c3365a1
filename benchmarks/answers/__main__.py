"""How many of thirty questions in four languages the embedded text models answer right.

    python -m benchmarks.answers [--model NAME ...] [--data DIR]

Each model is asked each question once, in a chat of its own, through the whole program: router,
system prompt and sampling of its card, one fixed seed. The questions were written down before any
model was asked. The answers are kept in `answers.json` beside this file, so that anybody can judge
them again; the interval is Wilson's, 95 %.
"""

from __future__ import annotations

import argparse
import json
import re
import tempfile
import threading
import time
import tomllib
import unicodedata
from math import sqrt
from pathlib import Path
from typing import Any

import platformdirs

from multimodal.build import Program, build
from multimodal.events import Done, TextDelta
from multimodal.messages import Controls, Conversation, Message, Sampling, TextPart
from multimodal.settings import APP, read_settings

HERE = Path(__file__).parent
LANGUAGES = {"en": "English", "fr": "French", "ja": "Japanese", "zh": "Chinese (traditional)"}
MODELS = ("smollm2-135m-instruct", "qwen2.5-coder-0.5b-instruct", "qwen2.5-coder-1.5b-instruct")
SEED = 1
LONGEST_ANSWER = 80
WILSON_Z = 1.96


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", action="append")
    parser.add_argument("--weights", default=platformdirs.user_cache_path(APP) / "weights")
    asked = parser.parse_args()
    questions = tomllib.loads((HERE / "questions.toml").read_text("utf-8"))["question"]
    rows = []
    with tempfile.TemporaryDirectory() as data:
        settings = read_settings(data=data, weights=asked.weights, profile="embedded")
        program = build(settings)
        try:
            for model in asked.model or MODELS:
                rows += ask_all(program, model, questions)
        finally:
            program.close()
    (HERE / "answers.json").write_text(json.dumps(rows, ensure_ascii=False, indent=1), "utf-8")
    report(rows)


def ask_all(program: Program, model: str, questions: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """A row for each question and language: what was answered, and whether that is right."""
    rows = []
    for code in LANGUAGES:
        for question in questions:
            text = question[code]["ask"]
            started = time.perf_counter()
            answer = ask(program, model, text)
            rows.append(
                {
                    "model": model,
                    "language": code,
                    "about": question["about"],
                    "question": text,
                    "answer": answer,
                    "right": is_right(answer, question[code]["accept"]),
                    "seconds": round(time.perf_counter() - started, 2),
                }
            )
    return rows


def ask(program: Program, model: str, text: str) -> str:
    controls = Controls(model=model, sampling=Sampling(seed=SEED, max_tokens=LONGEST_ANSWER))
    conversation = Conversation((Message("user", (TextPart(text),)),), controls)
    words = []
    for event in program.assistant.reply(conversation, threading.Event()):
        if isinstance(event, TextDelta):
            words.append(event.text)
        elif isinstance(event, Done) and event.outcome.error:
            raise RuntimeError(event.outcome.error)
    return "".join(words)


def is_right(answer: str, accept: list[str]) -> bool:
    """Whether one of the patterns is found; wide letters and digits count as plain ones."""
    plain = unicodedata.normalize("NFKC", answer)
    return any(re.search(pattern, plain, re.IGNORECASE) for pattern in accept)


def wilson(right: int, of: int) -> tuple[float, float]:
    """Wilson's score interval of a share (1927), 95 %."""
    share, z2 = right / of, WILSON_Z**2
    middle = (share + z2 / (2 * of)) / (1 + z2 / of)
    half = WILSON_Z * sqrt(share * (1 - share) / of + z2 / (4 * of * of)) / (1 + z2 / of)
    return middle - half, middle + half


def report(rows: list[dict[str, Any]]) -> None:
    for model in dict.fromkeys(row["model"] for row in rows):
        for code, language in LANGUAGES.items():
            found = [row for row in rows if (row["model"], row["language"]) == (model, code)]
            right = sum(row["right"] for row in found)
            low, high = wilson(right, len(found))
            seconds = sum(row["seconds"] for row in found) / len(found)
            print(
                f"{model:30} {language:22} {right:2} of {len(found)} right "
                f"({100 * low:.0f}-{100 * high:.0f} %), {seconds:.1f} s an answer"
            )


if __name__ == "__main__":
    main()
