"""“Saved in fewer bits” on the page: models that were saved as they were quantized, and their
removal."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import gradio as gr

from multimodal.access import Hosts
from multimodal.build import Program
from multimodal.errors import WeightsError
from multimodal.settings import Settings
from multimodal.sizes import gigabytes
from multimodal.web import gauge
from multimodal.web.fitting import row
from multimodal.weights.quantized import QuantizedCheckpoint

NONE = (
    "None yet. A model that is quantized to 4 or 8 bits is saved like that the first time, so that "
    "the next start reads a third of the bytes."
)


def may_remove(settings: Settings) -> bool:
    """Whether everybody who reaches the page is its owner, or one who was given a login."""
    is_here = Hosts(settings.host).is_local and not settings.share
    return is_here or bool(settings.logins())


class SavedModelsPanel:
    """Builds its components inside the Blocks that is open; shown where such models are made or
    kept, to those who may remove them."""

    def __init__(self, program: Program) -> None:
        self._store, self._title = program.weights.quantized, program.catalog.title
        is_used = program.memory.device.engine == "cuda" or bool(self._store.all())
        self.is_shown = is_used and may_remove(program.settings)
        with gr.Accordion(
            "Saved in fewer bits", open=False, visible=self.is_shown, elem_id="saved"
        ) as self._section:
            self._told = gr.HTML(elem_id="saved-told")
            self._choice = gr.Dropdown(
                [], label="Saved model", info="What was fetched stays.", elem_id="saved-choice"
            )
            self._remove = gr.Button("Remove", size="sm", elem_id="saved-remove")

    def wire(self, quiet: dict[str, Any]) -> None:
        if not self.is_shown:  # and nobody can press a button that has no event
            return
        outputs = [self._told, self._choice]
        self._section.expand(self._listed, None, outputs, **quiet)
        self._remove.click(self._removed, [self._choice], outputs, **quiet)

    def _listed(self) -> list[Any]:
        found = self._store.all()
        names = list(dict.fromkeys(checkpoint.model for checkpoint in found))
        choices = [(self._title(name), name) for name in names]
        return [render_saved_models(found, self._title), gr.Dropdown(choices, value=None)]

    def _removed(self, model: str | None) -> list[Any]:
        if model:
            try:
                self._store.remove(model)
            except WeightsError as error:
                raise gr.Error(str(error), duration=15, print_exception=False) from error
        return self._listed()


def render_saved_models(found: Sequence[QuantizedCheckpoint], title: gauge.TitleOf) -> str:
    """Each with its size, and what its next start takes instead of the first one."""
    if not found:
        return f'<section class="fit" role="status"><p>{NONE}</p></section>'
    rows = "".join(
        row(
            title(one.model),
            gigabytes(one.size_bytes),
            f"{one.record.settings.kind} · "
            f"{one.seconds if one.is_readable else 'cannot be read, so it is not used'}",
        )
        for one in found
    )
    return f'<section class="fit" role="status"><ul>{rows}</ul></section>'
