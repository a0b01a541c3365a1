"""How many tokens a second several people get together, beside raw xllamacpp with the same slots.

    python -m benchmarks.concurrency [--people 8] [--slots 4 8] [--tokens 128] [--rounds 3]

For every number of slots, four sides take turns on the same weights, settings and questions, so
that whatever else the machine does hits all of them. Nobody sets a seed, as at the page: with one,
the program reads every prompt anew. The sides: raw xllamacpp with the parameters
this program sets; the same with one cache that all slots share; the engine behind the program's
seam (`backends/llama_cpp/engine.py`); and the whole program over HTTP, streamed. A side's figure is
all tokens of all people divided by the seconds until the last one was served; ratios are to the
first. Only one model is loaded at a time.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx2 as httpx
import uvicorn
import xllamacpp
from starlette.applications import Starlette

from multimodal.api import routes
from multimodal.backends.base import load
from multimodal.backends.llama_cpp.engine import parameters
from multimodal.backends.llama_cpp.gguf_files import gguf_files
from multimodal.build import build
from multimodal.catalog.cards import ModelCard
from multimodal.messages import Sampling, Usage
from multimodal.requests import ChatMessage, TextRequest
from multimodal.settings import read_settings

ROOT = Path(__file__).parent.parent
CARD = "smollm2-135m-instruct"
TOPICS = ("a dog", "a cat", "a ship", "a star", "a tree", "a king", "a clock", "a river")

Ask = Callable[[str], int]
"""One question; how many tokens were written."""


def question(person: int, turn: int) -> str:
    return f"Tell me a long story about {TOPICS[person % len(TOPICS)]}, number {turn + 1}."


def together(ask: Ask, people: int, turn: int) -> float:
    """Tokens a second of all people, who ask at the same moment."""
    started = time.perf_counter()
    with ThreadPoolExecutor(people) as crowd:
        asked = [crowd.submit(ask, question(person, turn)) for person in range(people)]
        tokens = sum(each.result() for each in asked)
    return tokens / (time.perf_counter() - started)


@contextmanager
def raw(card: ModelCard, files: Path, tokens: int, is_shared: bool) -> Iterator[Ask]:
    """xllamacpp itself; with one cache that all slots share where `is_shared`."""
    assert card.context_tokens is not None
    params = parameters(card, card.context_tokens, gguf_files(card, files), "cpu")
    params.kv_unified = is_shared
    server = xllamacpp.Server(params)
    sampling = card.sampling

    def ask(text: str) -> int:
        timings: dict[str, Any] = {}

        def receive(chunk: dict[str, Any]) -> bool:
            timings.update(chunk.get("timings", {}))
            return False

        server.handle_chat_completions(
            {
                "messages": [
                    {"role": "system", "content": card.system_prompt},
                    {"role": "user", "content": text},
                ],
                "stream": True,
                "temperature": sampling.temperature,
                "top_p": sampling.top_p,
                "repeat_penalty": sampling.repeat_penalty,
                "max_tokens": tokens,
            },
            receive,
        )
        return int(timings["predicted_n"])

    yield ask


@contextmanager
def engine(card: ModelCard, files: Path, tokens: int) -> Iterator[Ask]:
    """The program's own engine, as its assistant runs it."""
    backend = load(card, files, "cpu")

    def ask(text: str) -> int:
        request = TextRequest((ChatMessage("user", text),), sampling=Sampling(max_tokens=tokens))
        *_, used = backend.run(request, threading.Event())
        assert isinstance(used, Usage)
        return used.completion_tokens

    yield ask
    backend.close()


@contextmanager
def program(card: ModelCard, tokens: int, data: Path) -> Iterator[Ask]:
    """The whole program as it ships, behind its HTTP interface, without the page; answers are
    streamed."""
    made = build(read_settings(data=data, profile="embedded", budget="8GB"))
    config = uvicorn.Config(Starlette(routes=routes(made)), port=0, log_config=None)
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run)
    thread.start()
    while not server.started:
        time.sleep(0.05)
    port = server.servers[0].sockets[0].getsockname()[1]
    client = httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=600)

    def ask(text: str) -> int:
        body = {
            "model": card.name,
            "messages": [{"role": "user", "content": text}],
            "max_tokens": tokens,
            "stream": True,
            "stream_options": {"include_usage": True},
        }
        used = 0
        with client.stream("POST", "/v1/chat/completions", json=body) as reply:
            for line in reply.iter_lines():
                if line.startswith("data: {") and (told := json.loads(line[6:]).get("usage")):
                    used = told["completion_tokens"]
        return used

    yield ask
    client.close()
    server.should_exit = True
    thread.join()
    made.close()


def main() -> None:
    asked = argparse.ArgumentParser(description=__doc__)
    asked.add_argument("--people", type=int, default=8)
    asked.add_argument("--slots", type=int, nargs="+", default=[4, 8])
    asked.add_argument("--tokens", type=int, default=128)
    asked.add_argument("--rounds", type=int, default=3)
    asked.add_argument("--threads", type=int, default=0, help="of the engine; 0 for all cores")
    chosen = asked.parse_args()
    print(f"{platform.machine()}, {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}")
    with tempfile.TemporaryDirectory() as data:
        made = build(read_settings(data=Path(data), profile="embedded"))
        card: ModelCard = made.catalog.card(CARD)
        files = made.weights.ensure(card)
        made.close()
        for slots in chosen.slots:
            sized = card.model_copy(
                update={"concurrency": slots, "engine": {**card.engine, "threads": chosen.threads}}
            )
            is_shipped = slots == card.concurrency and not chosen.threads
            compare(sized, files, chosen, Path(data), is_shipped)


def compare(
    card: ModelCard, files: Path, chosen: argparse.Namespace, data: Path, is_shipped: bool
) -> None:
    """Print every side's rate with that many slots, and its ratio to the first. The whole program
    is compared where its card `is_shipped`, since it takes no other."""
    tokens: int = chosen.tokens
    sides = {
        "raw": lambda: raw(card, files, tokens, is_shared=False),
        "raw, one shared cache": lambda: raw(card, files, tokens, is_shared=True),
        "engine": lambda: engine(card, files, tokens),
    }
    if is_shipped:
        sides["whole program"] = lambda: program(card, tokens, data)
    rates: dict[str, list[float]] = {name: [] for name in sides}
    for turn in range(chosen.rounds):
        for name, side in sides.items():
            with side() as ask:
                ask("Hello.")
                rates[name].append(together(ask, chosen.people, turn))
    first = statistics.median(rates["raw"])
    for name, found in rates.items():
        rate = statistics.median(found)
        print(
            f"{chosen.people} people, {card.concurrency} slots, {name}: {rate:.1f} tokens/s, "
            f"{rate / first:.3f} of raw ({', '.join(f'{r:.1f}' for r in found)})"
        )


if __name__ == "__main__":
    main()
