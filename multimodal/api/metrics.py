"""`/metrics` in Prometheus' text format: the memory manager's books as they stand."""

from __future__ import annotations

from collections.abc import Iterator

from prometheus_client import CollectorRegistry
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest
from prometheus_client.registry import Collector
from starlette.requests import Request
from starlette.responses import Response

from multimodal.build import Program
from multimodal.memory.records import Snapshot

PREFIX = "multimodal_memory"


async def metrics(request: Request, program: Program) -> Response:
    """One scrape."""
    registry = CollectorRegistry()
    registry.register(_Books(program.memory.snapshot()))
    return Response(generate_latest(registry), media_type=CONTENT_TYPE_LATEST)


class _Books(Collector):
    def __init__(self, snapshot: Snapshot) -> None:
        self._snapshot = snapshot

    def collect(self) -> Iterator[Metric]:
        yield from self._totals()
        yield from self._models()
        yield from self._decisions()

    def _totals(self) -> Iterator[Metric]:
        books = self._snapshot
        device = GaugeMetricFamily(
            f"{PREFIX}_device", "The device; 1 if it is simulated.", labels=["device"]
        )
        device.add_metric([books.device], float(books.simulated))
        yield device
        for name, words, value in (
            ("budget_bytes", "What all models and turns may take together.", books.budget_bytes),
            ("used_bytes", "What is charged to the budget.", books.used_bytes),
            ("workspace_bytes", "What turns under way take.", books.workspace_bytes),
            (
                "reserved_bytes",
                "What other work than turns holds.",
                sum(size_bytes for _, size_bytes in books.reserved),
            ),
            ("waiting_turns", "Turns that wait for a model.", books.waiting),
        ):
            yield GaugeMetricFamily(f"{PREFIX}_{name}", words, value=value)

    def _models(self) -> Iterator[Metric]:
        resident = GaugeMetricFamily(
            f"{PREFIX}_resident_bytes", "Models on the device.", labels=["model", "state"]
        )
        leases = GaugeMetricFamily(f"{PREFIX}_leases", "Turns that use a model.", labels=["model"])
        beside = GaugeMetricFamily(
            f"{PREFIX}_host_resident_bytes",
            "Models on the CPU beside a card.",
            labels=["model", "state"],
        )
        for held in self._snapshot.held:
            place = resident if held.place == "device" else beside
            place.add_metric([held.card, held.state], held.size_bytes)
            leases.add_metric([held.card], held.leases)
        mirrored = GaugeMetricFamily(
            f"{PREFIX}_mirrored_bytes", "Evicted models kept in host memory.", labels=["model"]
        )
        for mirror in self._snapshot.mirrored:
            mirrored.add_metric([mirror.card], mirror.size_bytes)
        yield from (resident, beside, leases, mirrored)

    def _decisions(self) -> Iterator[Metric]:
        yield CounterMetricFamily(
            f"{PREFIX}_decisions", "Models brought to the device.", value=self._snapshot.decided
        )
        if not self._snapshot.decisions:
            return
        last = self._snapshot.decisions[-1]
        for name, words, value in (
            ("seconds", "How long the last one took on the device's clock.", last.seconds),
            ("moved_bytes", "What it moved.", last.moved_bytes),
            ("victims", "How many models left for it.", len(last.victims)),
        ):
            family = GaugeMetricFamily(
                f"{PREFIX}_last_decision_{name}", words, labels=["model", "how", "failed"]
            )
            family.add_metric([last.card, last.how, str(last.error is not None).lower()], value)
            yield family
