"""What the program adds to raw xllamacpp: tokens a second, and tokens computed on the second turn.

    python benchmarks/text_path.py [--rounds 7]

Both sides run in this process on the same weights, settings, prompt and seed, in turns, so that
whatever else the machine does hits both. "Whole path" is the assistant as the page uses it:
router, memory lease, thread, events. Speed is measured on both sides by the same clock, from the
first to the last piece of text.
"""

from __future__ import annotations

import argparse
import os
import platform
import statistics
import tempfile
import threading
import time
from pathlib import Path

import xllamacpp

from multimodal.backends.llama_cpp.engine import parameters
from multimodal.backends.llama_cpp.gguf_files import GgufFiles
from multimodal.build import build
from multimodal.events import TextDelta
from multimodal.messages import Controls, Conversation, Message, Sampling, TextPart, Usage
from multimodal.settings import read_settings

CARD = "smollm2-135m-instruct"
QUESTION = "Tell me a long story about a river, a mill and a girl who could talk to fish."
FOLLOW = "And what did the miller say?"
TOKENS = 256


class Clock:
    """Pieces of text a second between the first and the last."""

    def __init__(self) -> None:
        self.times: list[float] = []

    def tick(self) -> None:
        self.times.append(time.perf_counter())

    @property
    def rate(self) -> float:
        return (len(self.times) - 1) / (self.times[-1] - self.times[0])


def raw(server: xllamacpp.Server, system: str, question: str, seed: int) -> Clock:
    clock = Clock()

    def receive(chunk: dict[str, object]) -> bool:
        choices = chunk.get("choices") or [{}]
        if choices[0].get("delta", {}).get("content"):  # type: ignore[index]
            clock.tick()
        return False

    body = {
        "messages": [{"role": "system", "content": system}, {"role": "user", "content": question}],
        "stream": True,
        "temperature": 0.2,
        "top_p": 0.9,
        "repeat_penalty": 1.1,
        "max_tokens": TOKENS,
        "seed": seed,
    }
    server.handle_chat_completions(body, receive)
    return clock


class Bench:
    """The same model twice: bare, and behind the whole program."""

    def __init__(self, data: Path) -> None:
        self.program = build(read_settings(data=data, profile="embedded"))
        self.card = self.program.catalog.card(CARD)
        files = self.program.weights.ensure(self.card)
        assert self.card.context_tokens is not None
        found = GgufFiles(files / "model.gguf")
        params = parameters(self.card, self.card.context_tokens, found, "cpu")
        self.server = xllamacpp.Server(params)
        self.bare(0)
        self.whole(asked(0))

    def bare(self, seed: int) -> float:
        return raw(self.server, self.card.system_prompt, QUESTION, seed).rate

    def whole(self, conversation: Conversation) -> tuple[float, str, Usage]:
        clock, words, usage = Clock(), "", None
        for event in self.program.assistant.reply(conversation, threading.Event()):
            if isinstance(event, TextDelta):
                clock.tick()
                words += event.text
            elif isinstance(event, Usage):
                usage = event
        assert usage is not None, "a text model counts its tokens"
        return clock.rate, words, usage


def asked(seed: int | None) -> Conversation:
    controls = Controls(sampling=Sampling(seed=seed, max_tokens=TOKENS))
    return Conversation((Message("user", (TextPart(QUESTION),)),), controls)


def speed(bench: Bench, rounds: int) -> None:
    """Print tokens a second of both sides, and their ratio; each round is bare, whole, bare."""
    pairs = []
    for seed in range(1, rounds + 1):
        before = bench.bare(seed)
        ours, _, _ = bench.whole(asked(seed))
        pairs.append(((before + bench.bare(seed)) / 2, ours))
        print(f"round {seed}: raw {pairs[-1][0]:6.1f}, whole path {ours:6.1f} tokens/s")
    median = statistics.median
    print(f"raw xllamacpp  {median(bare for bare, _ in pairs):6.1f} tokens/s (median)")
    print(f"whole path     {median(ours for _, ours in pairs):6.1f} tokens/s (median)")
    print(f"ratio          {median(ours / bare for bare, ours in pairs):.3f} (median of {rounds})")


def second_turn(bench: Bench) -> None:
    """Print how many tokens of the second turn's prompt were computed. No seed is set: one that is
    has all of the prompt computed, so that its answer does not depend on what came before."""
    one = asked(None)
    _, words, before = bench.whole(one)
    more = (Message("assistant", (TextPart(words),)), Message("user", (TextPart(FOLLOW),)))
    _, _, after = bench.whole(Conversation((*one.messages, *more), one.controls))
    computed = after.prompt_tokens - after.cached_tokens
    print(f"first turn: {before.prompt_tokens} tokens read, {before.completion_tokens} written")
    print(f"second turn: {after.prompt_tokens} tokens in the prompt, {computed} computed")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=7)
    rounds = parser.parse_args().rounds
    version = xllamacpp.__version__
    print(f"machine: {platform.machine()}, {os.cpu_count()} cores, xllamacpp {version}")
    with tempfile.TemporaryDirectory() as data:
        bench = Bench(Path(data))
        speed(bench, rounds)
        second_turn(bench)
        bench.program.close()


if __name__ == "__main__":
    main()
