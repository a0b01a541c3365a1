"""Tokens a second of what a card may ask of transformers' `generate`, against `generate` alone:

    python -m benchmarks.decode [--only card] [--quantization fp32] [--rounds 3] [--out FILE]

"plain" is what every reply takes unless a card says otherwise: what it costs beside `generate` is
streaming words and stopping. The others are a card's engine options.

Everywhere: a small model that has learnt to talk (the embedded SmolLM2, its GGUF weights taken
apart by transformers), asked to chat, to sum up, and to repeat a text with changes. With an NVIDIA
card also Mistral 7B, LLaVA 7B and Phi-3 in nf4, of full size with random weights, against the
ceiling that the card's memory sets: measured bandwidth over the bytes that one token reads.

All take turns within a round, so that whatever else the machine does hits all of them.
"""

from __future__ import annotations

import argparse
import platform
import statistics
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    GenerationConfig,
    PreTrainedTokenizerFast,
)
from transformers.generation.streamers import BaseStreamer

from benchmarks.figures import tell
from benchmarks.memory.models import random_module
from multimodal.backends.hf.causal_lm import CausalLM
from multimodal.build import build, read_catalog
from multimodal.catalog.architectures import ModelPart, ModulesArchitecture
from multimodal.catalog.cards import ModelCard
from multimodal.errors import CardError
from multimodal.memory.devices.storages import storage_bytes
from multimodal.messages import Sampling, Usage
from multimodal.requests import ChatMessage, TextRequest
from multimodal.settings import read_settings

TALKER = "smollm2-135m-instruct"
LARGE = ("mistral-7b-instruct", "llava-1.5-7b")
WINDOWED = ("phi-3-mini",)
"""Measured as well; attention with a window takes no option."""
OPTIONS: dict[str, dict[str, bool | int | float | str]] = {
    "plain": {"prompt_cache_mib": 0},
    "prompt lookup": {"prompt_lookup_num_tokens": 10, "prompt_cache_mib": 0},
    "static cache": {"cache_implementation": "static", "prompt_cache_mib": 0},
}
"""Nothing is kept between turns, so that every round begins alike."""
TOKENS, PROMPT, END = 64, 256, 2
WORD = "w{:06d}"
TEXT = """The mill stood where the river left the hills. In spring the wheel turned day and night,
and flour lay on the window sills like snow. The miller counted the sacks, wrote the colour of
each ribbon into a book, and gave every tenth sack to the baker, who paid him in bread. When the
river fell in August, the wheel stood still, and the miller mended his nets and caught fish."""
CODE = """def moving_average(values, window):
    total = 0
    result = []
    for index, value in enumerate(values):
        total += value
        if index >= window:
            total -= values[index - window]
        if index >= window - 1:
            result.append(total / window)
    return result"""
TASKS = {
    "chat": "Tell me about the history of bread.",
    "story": "Write a short story about a fox and a lighthouse.",
    "sum up": f"Sum up this text in three sentences:\n{TEXT}",
    "repeat": f"Repeat this text word for word:\n{TEXT}",
    "code": f"Add a docstring to this function and write all of it:\n```python\n{CODE}\n```",
}


class Clock(BaseStreamer):
    """Tokens a second between the first and the last, as `generate` tells them."""

    def __init__(self) -> None:
        self.times: list[float] = []

    def put(self, value: torch.Tensor) -> None:
        self.times += [time.perf_counter()] * value.numel()

    def end(self) -> None:
        pass

    def rate(self, prompt_tokens: int) -> float:
        told = self.times[prompt_tokens:]
        return (len(told) - 1) / (told[-1] - told[0])


class Bench:
    """One model, asked by `generate` alone and by ours with every option that it takes."""

    def __init__(self, card: ModelCard, model: Any, tokenizer: Any) -> None:
        self._model, self._tokenizer = model, tokenizer
        self._ours: dict[str, CausalLM] = {}
        for option, engine in OPTIONS.items():
            with suppress(CardError):  # a cache with a window, such as Phi-3's, is not cut
                asking = card.model_copy(update={"engine": engine})
                self._ours[option] = CausalLM(asking, model, tokenizer)

    def ours(self, option: str, asked: str) -> float:
        """Tokens a second."""
        sampling = Sampling(temperature=0.0, max_tokens=TOKENS, repeat_penalty=1.0)
        request = TextRequest((ChatMessage("user", asked),), sampling=sampling)
        *_, usage = self._ours[option].run(request, threading.Event())
        assert isinstance(usage, Usage)
        return (usage.completion_tokens - 1) / usage.decode_s

    @torch.no_grad()
    def alone(self, asked: str) -> float:
        """Tokens a second of `generate` itself."""
        prompt = self._tokenizer.apply_chat_template(
            [{"role": "user", "content": asked}], add_generation_prompt=True, tokenize=False
        )
        given = self._tokenizer(prompt, add_special_tokens=False, return_tensors="pt")
        ids = given["input_ids"].to(self._model.device)
        clock = Clock()
        self._model.generate(
            input_ids=ids,
            attention_mask=torch.ones_like(ids),
            generation_config=GenerationConfig(
                max_new_tokens=TOKENS,
                do_sample=False,
                pad_token_id=0,
                eos_token_id=self._model.generation_config.eos_token_id,
            ),
            streamer=clock,
        )
        return clock.rate(ids.shape[1])

    def measure(self, asked: str, rounds: int) -> dict[str, float]:
        """The median rate of each; a first round is not counted."""
        runs: dict[str, Callable[[str], float]] = {"generate": self.alone}
        for option in self._ours:
            runs[option] = partial(self.ours, option)
        found: dict[str, list[float]] = {name: [] for name in runs}
        for counted in range(rounds + 1):
            for name, run in runs.items():
                rate = run(asked)
                if counted:
                    found[name].append(rate)
        return {name: statistics.median(rates) for name, rates in found.items()}


def ratios(rates: dict[str, float]) -> dict[str, float]:
    """The tokens a second of `generate`, and all others' as a multiple of it."""
    base = rates["generate"]
    others = {name: round(rate / base, 2) for name, rate in rates.items() if name != "generate"}
    return {"generate_tokens_per_s": round(base, 1), **others}


def talker(kind: str, rounds: int) -> dict[str, Any]:
    """A model that has learnt to talk, on the CPU."""
    program = build(read_settings(profile="embedded"))
    card = program.catalog.card(TALKER)
    files = program.weights.ensure(card)
    program.close()
    dtype = {"fp32": torch.float32, "bf16": torch.bfloat16}[kind]
    tokenizer = AutoTokenizer.from_pretrained(files, gguf_file="model.gguf")
    model = AutoModelForCausalLM.from_pretrained(files, gguf_file="model.gguf", dtype=dtype)
    bench = Bench(card, model.eval(), tokenizer)
    return {task: ratios(bench.measure(asked, rounds)) for task, asked in TASKS.items()}


def large(card: ModelCard, rounds: int, device: str = "cuda") -> dict[str, Any]:
    """A model of the card's size with random weights, on `device`."""
    assert isinstance(card.architecture, ModulesArchitecture)
    (part,) = card.architecture.parts.values()
    model: Any = random_module(unlimited(part), card.quantization[0], device)
    text = model.config.get_text_config(decoder=True)
    model.generation_config.eos_token_id = END
    facts = {"chat_template": "", "system_prompt": "", "context_tokens": 4 * PROMPT}
    plain = card.model_copy(update=facts)
    bench = Bench(plain, model, numbered(text.vocab_size))
    asked = " ".join(WORD.format(3 + number % (text.vocab_size - 3)) for number in range(PROMPT))
    found = bench.measure(asked, rounds)
    head = getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads
    a_token = 2 * text.num_hidden_layers * text.num_key_value_heads * head * model.dtype.itemsize
    read = storage_bytes(model.get_decoder()) + storage_bytes(model.get_output_embeddings())
    read -= storage_bytes(model.get_input_embeddings())
    ceiling = bandwidth(device) / (read + (PROMPT + TOKENS // 2) * a_token)
    share = {name: round(rate / ceiling, 3) for name, rate in found.items()}
    return {**ratios(found), "ceiling_tokens_per_s": round(ceiling, 1), "of_ceiling": share}


def unlimited(part: ModelPart) -> ModelPart:
    """A part whose attention has no window where the card states one as long as its context: the
    published file has none, and a window would be another kind of cache."""
    config = dict(part.config)
    if config.get("sliding_window") == config.get("max_position_embeddings"):
        config["sliding_window"] = None
    return part.model_copy(update={"config": config})


def numbered(vocabulary: int) -> PreTrainedTokenizerFast:
    """A tokenizer whose words are numbers."""
    known = {WORD.format(number): number for number in range(vocabulary)}
    words = Tokenizer(WordLevel(known, WORD.format(1)))
    words.pre_tokenizer = Whitespace()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=words)
    tokenizer.add_special_tokens({"eos_token": WORD.format(END), "pad_token": WORD.format(0)})
    tokenizer.chat_template = "{% for m in messages %}{{ m['content'] }} {% endfor %}"
    return tokenizer


def bandwidth(device: str) -> float:
    """Bytes a second that `device` reads and writes, by copying 1 GiB within it."""
    one, other = (torch.empty(1 << 30, dtype=torch.uint8, device=device) for _ in range(2))
    finish = torch.cuda.synchronize if device == "cuda" else lambda: None
    times = []
    for _ in range(10):
        finish()
        started_s = time.perf_counter()
        other.copy_(one)
        finish()
        times.append(time.perf_counter() - started_s)
    return 2 * (1 << 30) / min(times)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.decode")
    parser.add_argument(
        "--only", choices=("cpu", "card"), help="where to measure; both unless given"
    )
    parser.add_argument("--quantization", choices=("fp32", "bf16"), default="fp32")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--out", type=Path, help="where the figures go, beside the terminal")
    given = parser.parse_args()
    found: dict[str, Any] = {
        "python": platform.python_version(),
        "torch": torch.__version__,
        "card": "none: nothing here was measured on a GPU",
    }
    if given.only != "card":
        measured = talker(given.quantization, given.rounds)
        found[f"{TALKER} in {given.quantization} on the CPU"] = measured
    if torch.cuda.is_available() and given.only != "cpu":
        catalog = read_catalog(read_settings())
        found["card"] = torch.cuda.get_device_name()
        for name in (*LARGE, *WINDOWED):
            found[name] = large(catalog.card(name), given.rounds)
    tell(found, given.out)


if __name__ == "__main__":
    main()
