"""What every field of OpenAI's requests means here, those inside a message too: honoured, without
a meaning, or refused.

A field that would change the result is never dropped: it is honoured, or the request is refused
with a sentence that says so. A test goes through the fields of the `openai` package, so a new one
has to be judged before it can be released.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from multimodal.errors import UnsupportedFieldError

NOTHING: tuple[Any, ...] = (None, "", [], {})
"""Values that ask for nothing, whatever the field."""


@dataclass(frozen=True, slots=True)
class RefusedField:
    """Why a field is refused, as the end of a sentence; `neutral` values ask for what is done
    anyway, and pass."""

    reason: str
    neutral: tuple[Any, ...] = NOTHING


@dataclass(frozen=True, slots=True)
class RequestFields:
    """The fields of one endpoint. `honoured` ones are read; `harmless` ones change no result."""

    honoured: frozenset[str]
    harmless: frozenset[str] = frozenset()
    refused: Mapping[str, RefusedField] = field(default_factory=dict)

    @property
    def known(self) -> frozenset[str]:
        return self.honoured | self.harmless | frozenset(self.refused)

    def check(self, given: Mapping[str, Any]) -> None:
        """Raise UnsupportedFieldError for the first field that is refused. Fields of which nothing
        is known are ignored: clients send their own."""
        for name, refusal in self.refused.items():
            if name in given and not _is_one_of(given[name], refusal.neutral):
                raise UnsupportedFieldError(f"{name}: {refusal.reason}", name)


def _is_one_of(value: Any, neutral: Iterable[Any]) -> bool:
    """Equality that keeps true apart from 1, and takes 0 and 0.0 for one."""
    return any(
        value == known and isinstance(value, bool) == isinstance(known, bool) for known in neutral
    )


def _names(listed: str) -> frozenset[str]:
    return frozenset(listed.split())


def _not(*also: Any) -> tuple[Any, ...]:
    return (*NOTHING, *also)


NO_TOOLS = "no model here calls tools. Leave it out, and describe in words what may be asked for."
NO_LOGPROBS = "probabilities of tokens are not told here. Leave it out."
NO_PENALTY = "tokens are not penalised by count here. Leave it out, or give repeat_penalty."
ONE_SAMPLER = "tokens are drawn by temperature, top_p and repeat_penalty here. Leave it out."
NO_FORM = "no form of answers is enforced here. Leave it out, and ask for the form in words."
ONE_PICTURE = "this is not set for pictures here. Leave it out, or give steps and guidance_scale."
NO_SPEAKERS = "speakers are not told apart here. Leave it out."

CHAT = RequestFields(
    honoured=_names(
        "messages model stream stream_options temperature top_p max_tokens max_completion_tokens "
        "seed stop repeat_penalty repetition_penalty"
    ),
    harmless=frozenset(
        {
            "user",
            "store",
            "metadata",
            "safety_identifier",
            "service_tier",
            "prompt_cache_key",
            "prompt_cache_options",
            "prompt_cache_retention",
            "prediction",  # only makes it faster
            "parallel_tool_calls",  # says how tools are called, which are refused
            "reasoning_effort",  # of reasoning models, of which there is none
        }
    ),
    refused={
        "n": RefusedField("one answer is written at a time. Ask again for another.", _not(1)),
        "response_format": RefusedField(
            "answers are plain text here; neither JSON nor a schema is enforced. Leave it out, "
            "and ask for the form in words.",
            _not({"type": "text"}),
        ),
        "tools": RefusedField(NO_TOOLS),
        "tool_choice": RefusedField(NO_TOOLS, _not("none", "auto")),
        "functions": RefusedField(NO_TOOLS),
        "function_call": RefusedField(NO_TOOLS, _not("none", "auto")),
        "logprobs": RefusedField(NO_LOGPROBS, _not(False, 0)),
        "top_logprobs": RefusedField(NO_LOGPROBS, _not(0)),
        "logit_bias": RefusedField("tokens are not weighted by number here. Leave it out."),
        "frequency_penalty": RefusedField(NO_PENALTY, _not(0)),
        "presence_penalty": RefusedField(NO_PENALTY, _not(0)),
        "modalities": RefusedField(
            "answers are text here; for a voice send the answer to /v1/audio/speech.",
            _not(["text"]),
        ),
        "audio": RefusedField("answers are text here; for a voice send them to /v1/audio/speech."),
        "verbosity": RefusedField("ask for a short or a long answer in words.", _not("medium")),
        "web_search_options": RefusedField(
            "the net is never searched here. Leave it out.", (None,)
        ),
        "moderation": RefusedField("nothing is moderated here. Leave it out."),
        "top_k": RefusedField(ONE_SAMPLER, _not(0, -1)),
        "min_p": RefusedField(ONE_SAMPLER, _not(0)),
        "typical_p": RefusedField(ONE_SAMPLER, _not(1)),
        "mirostat": RefusedField(ONE_SAMPLER, _not(0)),
        "grammar": RefusedField("no grammar is enforced here. Leave it out."),
        "json_schema": RefusedField("no schema is enforced here. Leave it out."),
        "guided_json": RefusedField("no schema is enforced here. Leave it out."),
        "guided_regex": RefusedField(NO_FORM),
        "guided_choice": RefusedField(NO_FORM),
        "guided_grammar": RefusedField(NO_FORM),
        "structured_outputs": RefusedField(NO_FORM),
        "n_predict": RefusedField("give max_tokens, which is honoured.", _not(-1)),
        "min_tokens": RefusedField(
            "an answer ends where the model ends it. Leave it out.", _not(0)
        ),
        "ignore_eos": RefusedField(
            "an answer ends where the model ends it. Leave it out.", _not(False)
        ),
        "stop_token_ids": RefusedField("give the words that end an answer as stop."),
        "bad_words": RefusedField("no word is forbidden here. Leave it out."),
        "best_of": RefusedField("one answer is written at a time. Leave it out.", _not(1)),
        "use_beam_search": RefusedField(ONE_SAMPLER, _not(False)),
        "length_penalty": RefusedField(ONE_SAMPLER, _not(1)),
        "chat_template": RefusedField(
            "a model's own template is used. Write another into its card."
        ),
        "continue_final_message": RefusedField(
            "an answer is begun by the model. Leave it out, and end with a message of the user.",
            _not(False),
        ),
    },
)

MESSAGE = RequestFields(
    honoured=frozenset(
        {
            "role",
            "content",
            "refusal",
            "name",  # of the tool whose result it is
            "tool_call_id",
            "tool_calls",
            "function_call",
        }
    ),
    refused={
        "audio": RefusedField(
            "no answer is kept as sound here, so none can be named. Send what was said as content."
        )
    },
)

PICTURE = RequestFields(
    honoured=frozenset({"url"}),
    # How much a picture costs elsewhere. Here each is kept and seen at one size, the finest that a
    # model takes, which is no worse than any that is asked for.
    harmless=frozenset({"detail"}),
)

SOUND = RequestFields(
    honoured=frozenset({"data"}),
    harmless=frozenset({"format"}),  # the sound itself says which it is
)

TRANSLATIONS = RequestFields(
    # The last three are this program's own.
    honoured=_names(
        "file model prompt response_format temperature language timestamp_granularities stream"
    )
)

TRANSCRIPTIONS = RequestFields(
    honoured=TRANSLATIONS.honoured | {"languages", "keywords"},
    refused={
        "chunking_strategy": RefusedField(
            "recordings are always cut where nobody speaks. Leave it out.", _not("auto")
        ),
        "include": RefusedField(NO_LOGPROBS),
        "known_speaker_names": RefusedField(NO_SPEAKERS),
        "known_speaker_references": RefusedField(NO_SPEAKERS),
    },
)

SPEECH = RequestFields(
    honoured=_names("input model voice response_format speed stream_format language text_language"),
    refused={"instructions": RefusedField("voices take no instructions here. Leave it out.")},
)

IMAGES = RequestFields(
    honoured=_names(
        "model n prompt response_format size negative_prompt steps guidance_scale seed"
    ),
    harmless=frozenset({"user", "safety_identifier", "moderation"}),
    refused={
        "background": RefusedField(ONE_PICTURE, _not("auto", "opaque")),
        "complexity": RefusedField(ONE_PICTURE, _not("auto")),
        "quality": RefusedField(ONE_PICTURE, _not("auto", "standard")),
        "style": RefusedField("say in the prompt which style is wanted.", _not("vivid")),
        "output_format": RefusedField("pictures are PNG files here.", _not("png")),
        "output_compression": RefusedField("pictures are PNG files here.", _not(100)),
        "stream": RefusedField("pictures come whole here. Leave it out.", _not(False)),
        "partial_images": RefusedField("pictures come whole here. Leave it out.", _not(0)),
        "frame_count": RefusedField("pictures do not move here. Leave it out.", _not(1)),
        "frame_duration_ms": RefusedField("pictures do not move here. Leave it out."),
        "svg": RefusedField("pictures are PNG files here."),
    },
)
