"""A model in memory, whatever it does: one reference holds it, so that dropping that reference
gives its bytes back."""

from __future__ import annotations

from typing import TYPE_CHECKING, Generic, TypeVar

from multimodal.backends.worker import Worker
from multimodal.catalog.cards import ModelCard
from multimodal.errors import BackendError

if TYPE_CHECKING:
    from torch import nn

Model = TypeVar("Model")


class LoadedModel(Generic[Model]):
    """What a backend holds. Nothing else may keep the model beyond one answer."""

    _does = "answer"
    """What it cannot do any more once it was unloaded."""

    def __init__(self, card: ModelCard, model: Model) -> None:
        self._card = card
        self._held: Model | None = model
        self._worker = Worker()

    @property
    def _model(self) -> Model:
        """Raises BackendError after `close`."""
        if self._held is None:
            raise BackendError(f"{self._card.title} was unloaded before it could {self._does}")
        return self._held

    def close(self) -> None:
        """Give back every byte, and end the model's threads."""
        self._held = None
        self._worker.close()

    def modules(self) -> list[nn.Module]:
        """What may be moved off the device and back while nobody uses it."""
        from torch import nn  # not every engine is PyTorch's, and its import takes seconds

        return [self._held] if isinstance(self._held, nn.Module) else []
