"""What each step of a route asks of its model, made from the conversation.

A text model reads words only: pictures stand as what was seen in them. A model that talks about
pictures sees those that the step names where they were shown.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator
from dataclasses import asdict, dataclass, replace
from itertools import pairwise
from typing import TYPE_CHECKING

from multimodal.backends.speech.speakers import missing_voice_error
from multimodal.backends.speech.spoken_text import spoken_text
from multimodal.catalog.cards import ModelCard
from multimodal.errors import BackendError, MediaError
from multimodal.events import ImageDescribed, SpeechTranscribed
from multimodal.media.ingestion import MediaFolder
from multimodal.media.pixels import SEEN_SIDE, within
from multimodal.messages import (
    AudioPart,
    Conversation,
    ImagePart,
    Message,
    Role,
    Route,
    Step,
    Task,
    TextPart,
)
from multimodal.requests import (
    ChatMessage,
    ImageDescriptionRequest,
    ImageGenerationRequest,
    Request,
    TextRequest,
    TranscriptionRequest,
    TTSRequest,
)
from multimodal.turn.image_prompts import prompt_of, redraw_wish
from multimodal.turn.references import wants_only_translation, words_of_message

if TYPE_CHECKING:
    from PIL.Image import Image


@dataclass(frozen=True)
class RequestBuilder:
    """`languages` tells those that the text model reads which answers now; () for any."""

    media: MediaFolder
    languages: Callable[[], tuple[str, ...]]

    def request(self, step: Step, conversation: Conversation) -> Request:
        """Raises MediaError where a picture or recording is gone."""
        if step.task is Task.TEXT or step.pictures:
            return self._talk(step, conversation)
        if step.task is Task.DRAW:
            return self._draw(step, conversation)
        _, part = _find(conversation, step.sha256)
        if isinstance(part, AudioPart):
            return self._hear(part, conversation)
        question = words_of_message(conversation.messages[-1])
        image = self.media.image(part)
        return ImageDescriptionRequest(image, step.focus, question, part.reduced_from)

    def notices(
        self, request: Request, step: Step, conversation: Conversation, title: str
    ) -> Iterator[str]:
        """What of the conversation the model of that title is not shown as it is."""
        spoken = [part for part in conversation.messages[-1].recordings if part.english]
        if spoken and isinstance(request, TextRequest):
            yield (
                f"{title} does not read the language you spoke ({spoken[-1].language}), so it was "
                "given an English translation and answers in English."
            )
        if len(step.pictures) > MOST_SEEN:
            yield (
                f"Of {len(step.pictures)} pictures the newest {MOST_SEEN} were looked at. To ask "
                "about others, send them once more."
            )

    def tts_request(self, answer: str, conversation: Conversation) -> TTSRequest | None:
        """How `answer` is spoken; None where it has no words. It is taken to be in the language
        that is spoken, unless it is known to be in another one."""
        controls = conversation.controls
        known = controls.hearing.translate_to if wants_only_translation(conversation) else None
        words = spoken_text(answer, known or controls.speak_in or "en")
        if not words:
            return None
        return TTSRequest(words, controls.speak_in, known, controls.voice, controls.speed)

    def _hear(self, part: AudioPart, conversation: Conversation) -> TranscriptionRequest:
        asked = conversation.controls.hearing
        return TranscriptionRequest(
            self.media.waveform(part),
            asked.language,
            () if wants_only_translation(conversation) else self.languages(),
            translate_to=asked.translate_to,
        )

    def _draw(self, step: Step, conversation: Conversation) -> ImageGenerationRequest:
        """A picture that was made here keeps its own prompt where it is drawn anew, since a wish
        such as “in blue” names no subject."""
        words = words_of_message(conversation.messages[-1])
        source, prompt = None, prompt_of(words)
        if step.sha256 is not None:
            message, part = _find(conversation, step.sha256)
            if isinstance(part, ImagePart):
                source = self._shown(part)
                prompt = redraw_wish(words) or prompt
                if message.role == "assistant" and part.description:
                    prompt = f"{part.description}, {prompt}"
        seed = conversation.controls.sampling.seed
        drawing = asdict(conversation.controls.drawing)
        return ImageGenerationRequest(prompt, **drawing, seed=seed, source=source)

    def _talk(self, step: Step, conversation: Conversation) -> TextRequest:
        seen = step.pictures[-MOST_SEEN:]
        controls, said = conversation.controls, turns(conversation, seen)
        for sha256 in seen:
            _find(conversation, sha256)
        messages = (
            ChatMessage(turn.role, turn.words, tuple(map(self._shown, turn.pictures)))
            for turn in said
        )
        return TextRequest(tuple(messages), controls.system_prompt, controls.sampling)

    def _shown(self, picture: ImagePart) -> Image:
        return within(self.media.image(picture), SEEN_SIDE)


def annotate(
    step: Step, conversation: Conversation, result: SpeechTranscribed | ImageDescribed
) -> AudioPart | ImagePart:
    """The part that `step` is about, with what its model made of it. Raises MediaError where it is
    gone."""
    _, part = _find(conversation, step.sha256)
    if isinstance(part, ImagePart) and isinstance(result, ImageDescribed):
        return replace(part, description=result.description)
    if isinstance(part, AudioPart) and isinstance(result, SpeechTranscribed):
        spoken, english, translation = result.spoken, result.english, result.translation
        return replace(
            part,
            asked=conversation.controls.hearing,
            heard_by=step.card,
            transcript=spoken.text,
            language=spoken.language,
            english=english.text if english else None,
            translation=translation.text if translation else None,
        )
    raise BackendError(f"{step.card} answered as a model for something else does.")


def missing_voice_notice(
    route: Route, conversation: Conversation, cards: Iterable[ModelCard]
) -> str | None:
    """Why the answer of `route`, in words, is not spoken by any of `cards` though that is wanted;
    None where it is not wanted, or where it is spoken."""
    language = conversation.controls.speak_in
    draws = any(step.task is Task.DRAW for step in route.steps)
    if language is None or route.aloud is not None or draws:
        return None
    return f"The answer was not spoken. {missing_voice_error(cards, language)}"


@dataclass(frozen=True, slots=True)
class Turn:
    """What one side said, and the pictures it showed that are to be seen."""

    role: Role
    words: str
    pictures: tuple[ImagePart, ...] = ()


MOST_SEEN = 16
"""Pictures that a model which talks about them sees at once: each takes up to 13 MB."""
OPENING = "Hello."
"""What a greeting of the assistant, at the beginning of a history, is put behind."""


def turns(conversation: Conversation, seen: Collection[str] = ()) -> tuple[Turn, ...]:
    """The conversation as a model reads it: roles alternating, the user's first and last.

    Of the pictures, those whose SHA-256 is in `seen` are shown, at the last message that has them;
    the others stand as what was seen in them. Models see only what a person shows, so a picture
    that was made here is shown in the person's next turn. The words of a question that was not
    answered, because that failed, are left out: a later one would fail as it did.
    """
    failed = _failed(conversation)
    said: list[Turn] = []
    made: tuple[ImagePart, ...] = ()
    last = {p.sha256: message.id for message in conversation.messages for p in message.images}
    for message in conversation.messages:
        shown = tuple(
            dict.fromkeys(
                p for p in message.images if p.sha256 in seen and last[p.sha256] == message.id
            )
        )
        if message.role == "assistant":
            made, shown = (*made, *shown), ()
        else:
            made, shown = (), (*made, *shown)
        words = "" if message.id in failed else _as_words(message, seen)
        if not (words or shown):
            continue
        if message.role == "assistant" and not said:
            said.append(Turn("user", OPENING))  # most chat templates refuse to begin with an answer
        if said and said[-1].role == message.role:
            before = said.pop()
            words = "\n\n".join(filter(None, (before.words, words)))
            shown = (*before.pictures, *shown)
        said.append(Turn(message.role, words, shown))
    return tuple(said)


def _failed(conversation: Conversation) -> set[str]:
    """The questions whose reply failed before it had words, pictures or sound."""
    return {
        asked.id
        for asked, reply in pairwise(conversation.messages)
        if reply.outcome is not None and reply.outcome.finish == "failed" and not reply.parts
    }


def _as_words(message: Message, seen: Collection[str]) -> str:
    described = (
        f"[Picture: {p.description}]"
        for p in message.images
        if p.description and p.sha256 not in seen
    )
    return "\n\n".join(filter(None, (*described, words_of_message(message))))


def _find(conversation: Conversation, sha256: str | None) -> tuple[Message, AudioPart | ImagePart]:
    """The newest part with these bytes, and its message. Raises MediaError where it is gone."""
    for message in reversed(conversation.messages):
        for part in message.parts:
            if not isinstance(part, TextPart) and part.sha256 == sha256:
                return message, part
    raise MediaError("The picture or recording this turn needs is no longer there. Add it again.")
