"""Text from the real SmolLM2: streamed, cached, stopped, trimmed, seeded."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from multimodal.backends.base import Backend, TextRequest, load
from multimodal.backends.llama_cpp import _surplus_turns
from multimodal.cards import Catalog
from multimodal.errors import BackendError, PromptError
from multimodal.messages import Event, Notice, Progress, Role, Sampling, TextDelta, Usage

NAME = "smollm2-135m-instruct"
BRIEF = Sampling(seed=1, max_tokens=24)


@pytest.fixture(scope="module")
def model(catalog: Catalog, weights_of: Callable[[str], Path]) -> Iterator[Backend]:
    backend = load(catalog.card(NAME), weights_of(NAME), "cpu")
    yield backend
    backend.close()


def ask(
    model: Backend, *turns: tuple[Role, str], sampling: Sampling = BRIEF
) -> tuple[str, Usage, list[Event]]:
    events = list(model.run(TextRequest(turns, sampling=sampling), threading.Event()))
    text = "".join(event.text for event in events if isinstance(event, TextDelta))
    assert isinstance(events[-1], Usage)
    return text, events[-1], events


def test_an_answer_comes_in_pieces_and_is_counted(model: Backend) -> None:
    text, usage, events = ask(model, ("user", "What is photosynthesis?"))
    assert "plants" in text
    assert sum(isinstance(event, TextDelta) for event in events) >= usage.completion_tokens - 1
    assert usage.finish == "length"
    assert usage.completion_tokens == 24


def test_the_second_turn_computes_only_what_is_new(model: Backend) -> None:
    question: tuple[Role, str] = ("user", "Tell me about rivers. " * 30)
    answer, first, _ = ask(model, question)
    follow: tuple[Role, str] = ("user", "And lakes?")
    _, second, _ = ask(model, question, ("assistant", answer), follow)
    known = first.prompt_tokens + first.completion_tokens
    assert second.cached_tokens >= known - 2
    assert second.prompt_tokens - second.cached_tokens < 25


def test_the_same_seed_gives_the_same_answer(model: Backend) -> None:
    warm = Sampling(temperature=1.2, seed=5, max_tokens=24)
    first, _, _ = ask(model, ("user", "Tell me a story."), sampling=warm)
    again, _, _ = ask(model, ("user", "Tell me a story."), sampling=warm)
    other, _, _ = ask(
        model,
        ("user", "Tell me a story."),
        sampling=Sampling(temperature=1.2, seed=6, max_tokens=24),
    )
    assert first == again != other


def test_stop_words_end_the_answer(model: Backend) -> None:
    sampling = Sampling(seed=1, max_tokens=100, stop=("plants",))
    text, usage, _ = ask(model, ("user", "What is photosynthesis?"), sampling=sampling)
    assert "plants" not in text
    assert usage.finish == "stop"


@pytest.mark.parametrize("prompt", ["Tell me a very long story.", "word " * 3000])
def test_stop_frees_the_engine_soon_whether_it_reads_or_writes(model: Backend, prompt: str) -> None:
    stop = threading.Event()
    stream = model.run(TextRequest((("user", prompt),)), stop)
    next(stream)
    started = time.monotonic()
    stop.set()
    rest = list(stream)
    assert time.monotonic() - started < 1.0
    assert isinstance(rest[-1], Usage)
    assert rest[-1].finish == "stopped"
    ask(model, ("user", "Hello"))


def test_closing_the_stream_frees_the_engine_too(model: Backend) -> None:
    stream = model.run(TextRequest((("user", "word " * 3000),)), threading.Event())
    assert isinstance(next(stream), Progress)
    started = time.monotonic()
    stream.close()
    assert time.monotonic() - started < 1.0


def test_a_conversation_that_is_too_long_loses_its_oldest_turns_and_says_so(
    model: Backend,
) -> None:
    turns: list[tuple[Role, str]] = []
    for i in range(14):
        turns += [("user", f"Question {i}: " + "word " * 280), ("assistant", "answer " * 30)]
    _, usage, events = ask(model, *turns, ("user", "Say hi."))
    (notice,) = [event for event in events if isinstance(event, Notice)]
    assert "The first" in notice.text
    assert usage.prompt_tokens < 4096 - 24
    kept = ask(model, *turns, ("user", "Say hi."), ("assistant", "Hi."), ("user", "Again."))
    assert kept[1].cached_tokens > usage.prompt_tokens - 30, "the beginning moved"


def test_a_single_message_that_is_too_long_is_refused(model: Backend) -> None:
    with pytest.raises(PromptError, match=r"tokens long and SmolLM2 135M reads 4,096"):
        ask(model, ("user", "a b c " * 5000))


def test_four_conversations_at_once(model: Backend) -> None:
    found: dict[int, str] = {}

    def turn(number: int) -> None:
        found[number], _, _ = ask(model, ("user", f"Count up from {number}."))

    threads = [threading.Thread(target=turn, args=(n,)) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert len(found) == 4
    assert all(found.values())


def test_a_file_that_is_no_gguf_is_refused(catalog: Catalog, tmp_path: Path) -> None:
    with pytest.raises(BackendError, match=r"no \.gguf file"):
        load(catalog.card(NAME), tmp_path, "cpu")
    (tmp_path / "bad.gguf").write_bytes(b"nonsense" * 100)
    with pytest.raises(BackendError, match="could not be loaded"):
        load(catalog.card(NAME), tmp_path, "cpu")


@pytest.mark.parametrize(
    ("lengths", "tokens", "dropped"),
    [
        ([100] * 9, 1000, 4),
        ([100] * 9, 760, 6),
        ([100] * 9, 1100, 4),
        ([100] * 9, 1300, 6),
        ([100] * 9, 2000, 8),
        ([100, 100, 5000], 1000, 2),
    ],
)
def test_whole_blocks_of_turns_go(lengths: list[int], tokens: int, dropped: int) -> None:
    assert _surplus_turns(lengths, tokens, room=750, block=400) == dropped
