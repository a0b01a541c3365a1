"""transformers' Trainer, whose checkpoints can be read again whatever the model.

Since 5.24 some models, ViT among them, are saved under the names of their published weights, which
are not those of their modules. `from_pretrained` knows how to read that. Trainer, where it resumes
and where it loads the best checkpoint, does not: it finds none of these weights, warns, and goes on
with others.
"""

from __future__ import annotations

from typing import Any

from transformers import Trainer


class ResumableTrainer(Trainer):
    """Keeps the weights of a checkpoint under the names of the modules."""

    def save_model(self, output_dir: str | None = None, *more: Any, **named: Any) -> None:
        super().save_model(output_dir, *more, **named)
        if not self.args.should_save:
            return
        model: Any = self.model
        model.save_pretrained(output_dir or self.args.output_dir, save_original_format=False)
