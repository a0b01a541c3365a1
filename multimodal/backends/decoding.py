"""The loop that writes one reply, as `generate` runs it when everything is prepared.

It chooses the tokens that transformers' own loop chooses. What it adds changes no word: guesses of
what comes next are checked several at a time, and a step of fixed shapes is compiled or recorded.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from multimodal.backends.generation import Reply
from multimodal.backends.lookup import Lookup
from multimodal.backends.static_step import StaticStep


@dataclass(frozen=True)
class Decoding:
    """Given to `generate` as `custom_generate`. `lookup` needs a cache that can be cut, `step` one
    of a fixed size."""

    reply: Reply
    lookup: Lookup | None = None
    step: StaticStep | None = None

    def __call__(
        self,
        model: Any,
        input_ids: torch.Tensor,
        logits_processor: Any,
        stopping_criteria: Any,
        generation_config: Any,
        **kwargs: Any,
    ) -> torch.Tensor:
        """Return `input_ids`, (1, tokens), with the reply behind them."""

        outputs = model._prefill(input_ids, generation_config, kwargs)
        guessed: Sequence[int] = ()
        while True:
            known = input_ids.shape[1]
            input_ids, over = self._say(
                input_ids, outputs.logits, guessed, logits_processor, stopping_criteria
            )
            said = input_ids.shape[1] - known
            if self.lookup is not None:
                kwargs["past_key_values"].crop(-(len(guessed) + 1 - said))
                self.lookup.said(self.reply.tokens[-said:])
            if over:
                return input_ids
            if self.step is not None:
                outputs = self.step(input_ids[:, -1:], input_ids.shape[1] - 1)
                continue
            kwargs = model._update_model_kwargs_for_generation(outputs, kwargs, num_new_tokens=said)
            if self.lookup is not None:
                guessed = self.lookup.guesses(generation_config.max_length - known - said - 1)
            outputs = _forward(model, outputs, input_ids, guessed, kwargs)

    def _say(
        self,
        input_ids: torch.Tensor,
        logits: torch.Tensor,
        guessed: Sequence[int],
        logits_processor: Any,
        stopping_criteria: Any,
    ) -> tuple[torch.Tensor, bool]:
        """The tokens with those that the model says next: as many guesses as it would have said
        itself, and the one after them. Also whether the reply is over."""
        kept = logits[:, -len(guessed) - 1 :].to(torch.float32, copy=True)
        over = False
        for place, guess in enumerate((*guessed, None)):
            token = logits_processor(input_ids, kept[:, place]).argmax(dim=-1, keepdim=True)
            input_ids = torch.cat([input_ids, token], dim=-1)
            said = int(token)
            self.reply.say(said)
            over = bool(stopping_criteria(input_ids, None).all())
            if over or said != guess:
                break
        return input_ids, over


def _forward(
    model: Any, outputs: Any, input_ids: torch.Tensor, guessed: Sequence[int], kwargs: Any
) -> Any:
    """Run the model on the newest token and the guesses behind it."""
    if guessed:
        behind = torch.tensor([guessed], dtype=input_ids.dtype, device=input_ids.device)
        input_ids = torch.cat([input_ids, behind], dim=-1)
        kwargs = model._update_model_kwargs_for_generation(
            outputs, dict(kwargs), num_new_tokens=len(guessed)
        )
    inputs = model.prepare_inputs_for_generation(
        input_ids, next_sequence_length=len(guessed) + 1, **kwargs
    )
    if "logits_to_keep" in inputs:
        inputs["logits_to_keep"] = len(guessed) + 1
    return model(**inputs, return_dict=True)
