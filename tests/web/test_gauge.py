"""The memory's state in words and HTML, and as Prometheus reads it."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import httpx2 as httpx
from fakes import FakeSource, program, served
from prometheus_client.parser import text_string_to_metric_families
from small_memory import A, B, C, card, leased, manager, use

from multimodal.memory.devices.simulated import Simulated
from multimodal.memory.records import Decision
from multimodal.web.gauge import decision_sentence, gauge


def title(name: str) -> str:
    return {"a": "Model A", "b": "<B>"}.get(name, name)


def plain(html: str) -> str:
    return re.sub(r"\s+", " ", re.sub(r"<[^>]+>", " ", html))


def test_the_gauge_shows_what_is_there_in_use_and_mirrored() -> None:
    memory = manager(100, device=Simulated(100, host_bytes=1000))
    assert "No model is loaded yet" in gauge(memory.snapshot(), title)
    use(memory, A, C)
    with leased(memory, B, workspace=10):
        html = gauge(memory.snapshot(), title)
    assert "&lt;B&gt;" in html
    assert "<B>" not in html
    words = plain(html)
    for part in (
        "0.00 GB · in use",
        "Model A kept in host memory",
        "Turns under way",
        "Simulated 0 GB card",
        "This card is simulated",
    ):
        assert part in words
    assert 'aria-valuenow="90"' in html


def test_the_last_decision_is_told_with_its_reason() -> None:
    gb = 10**9
    decision = Decision("a", 3 * gb, gb, ("b",), 0.1, "restored", 2 * gb)
    assert decision_sentence(decision, title) == (
        "Last: Model A restored in 0.10 s (20.0 GB/s); it needed 3.00 GB and 1.00 GB were free, "
        "so <B> left."
    )
    alone = replace(decision, victims=(), how="loaded")
    assert decision_sentence(alone, title).endswith("1.00 GB were free, nothing had to go.")
    failed = replace(decision, error="Broken.")
    assert decision_sentence(failed, title) == "Last: Model A could not be brought: Broken."


def test_a_card_that_is_lost_is_told_where_its_memory_is_shown() -> None:
    memory = manager()
    assert "lost" not in gauge(memory.snapshot(), str)
    memory.device.failure = "The card cannot be used any more. Start the program again."
    told = gauge(memory.snapshot(), str)
    assert "<p class='lost' role='alert'>The card cannot be used any more." in told


def test_metrics_are_the_books(tmp_path: Path) -> None:
    made = program(tmp_path, FakeSource())
    use(made.memory, card("tiny", size=7))  # type: ignore[arg-type]
    with served(made) as url:
        told = httpx.get(f"{url}/metrics")
    assert told.headers["content-type"].startswith("text/plain")
    families = {f.name: f for f in text_string_to_metric_families(told.text)}
    assert families["multimodal_memory_used_bytes"].samples[0].value == 7
    (resident,) = families["multimodal_memory_resident_bytes"].samples
    assert (resident.labels, resident.value) == ({"model": "tiny", "state": "ready"}, 7)
    assert families["multimodal_memory_decisions"].samples[0].value == 1
    (seconds,) = families["multimodal_memory_last_decision_seconds"].samples
    assert seconds.labels == {"model": "tiny", "how": "loaded", "failed": "false"}
    assert families["multimodal_memory_device"].samples[0].labels["device"].startswith("simulated")
