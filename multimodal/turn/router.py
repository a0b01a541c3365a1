"""Conversation in, Route out. Decides, never loads: pure, deterministic, with the reason in words.

The rules, in their order (the first that fits decides):

1. A recording that was not heard yet, or not in the way now asked for, is transcribed; then the
   words decide ("again"). One that comes alone and is to be translated is answered with that.
2. "Draw ..." goes to a model that makes pictures, or says what is missing. "Draw this as ..." and
   "turn it into a painting" begin with the picture that was just sent or made.
3. A picture in the message is looked at; of several, those that the words mean. A model that
   converses about pictures answers whatever was asked. Of another one's findings, a question that
   they answer (what is it, what does it say, which colours, how many faces) is answered; any other
   goes on to the text model together with the description.
4. A question about an earlier picture goes back to that picture, in the same way.
5. Everything else is a matter for the text model.

A model the person chose replaces the profile's own for its task, and is the last step. Where
answers are to be spoken, a model that speaks says the words of any route.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from multimodal.backends.speech.speakers import choose_speaker
from multimodal.catalog.cards import AUTO, Catalog, ModelCard, Profile
from multimodal.catalog.defaults import DefaultModels
from multimodal.errors import PromptError, RequestError
from multimodal.messages import AudioPart, Conversation, ImagePart, Message, Route, Step, Task
from multimodal.turn.image_prompts import redraw_wish
from multimodal.turn.intents import (
    names_a_picture,
    wants_drawing,
    wants_text_of_picture,
    wants_transcript,
)
from multimodal.turn.references import (
    all_pictures,
    is_about_pictures,
    named_by_file,
    pictures_counted,
    pictures_meant,
    pictures_shown,
    refers_to_shown,
    resolve_focus,
    wants_only_translation,
    words_of_message,
)

LONG_RECORDING_S = 90
"""A recording longer than this, sent without a word, is taken as one to write down."""


NEEDS = {
    Task.DRAW: "a diffusion model such as Stable Diffusion 1.5 (2.1 GB of weights in 16 bit) "
    "and, to be quick, a GPU",
    Task.SPEECH: "a speech model such as Whisper",
    Task.IMAGE: "a model that sees",
    Task.TEXT: "a text model",
    Task.TTS: "a model for speech such as Piper",
}


@dataclass(frozen=True, slots=True)
class _Scene:
    """What the rules look at."""

    conversation: Conversation
    last: Message
    words: str
    chosen: ModelCard | None


class Router:
    """Decides for one profile of one catalog; `defaults` say which of its cards answer now."""

    def __init__(
        self, catalog: Catalog, profile: Profile, defaults: DefaultModels | None = None
    ) -> None:
        self._catalog = catalog
        self._profile = profile
        self._defaults = defaults or DefaultModels(profile)

    def decide(self, conversation: Conversation) -> Route:
        """The route for the newest message of `conversation`, which must be the user's.

        Raises PromptError for an empty message, UnknownModelError for a model that no card
        carries, RequestError where the chosen model cannot do anything with the message.
        """
        last = conversation.messages[-1]
        words = words_of_message(last)
        if not last.parts or not (words or last.images or last.recordings):
            raise PromptError("The message is empty. Type something, or add a picture or voice.")
        scene = _Scene(conversation, last, words, self._chosen(conversation))
        for rule in (self._hear, self._draw, self._look, self._look_again):
            if (route := rule(scene)) is not None:
                return self._aloud(route, scene)
        return self._aloud(self._talk(scene), scene)

    # ------------------------------------------------------------ the rules

    def _hear(self, scene: _Scene) -> Route | None:
        unheard = [part for part in scene.last.recordings if _is_unheard(part, scene)]
        if not unheard:
            return self._written_down(scene)
        card = self._for(Task.SPEECH, scene)
        if card is None:
            return self._missing("hear recordings", Task.SPEECH)
        steps = tuple(
            Step(Task.SPEECH, card.name, "hear the recording", part.sha256) for part in unheard
        )
        reason = f"The message has a recording, so {card.title} writes down what is said."
        return Route(steps, "voice", reason, again=True)

    def _written_down(self, scene: _Scene) -> Route | None:
        """After the hearing: were those words all that was wanted, or was nothing said?"""
        recordings = scene.last.recordings
        if not recordings:
            return None
        said = (part.translation or part.transcript or "" for part in recordings)
        heard = "\n\n".join(said).strip()
        typed = scene.last.text.strip()
        if not heard and not typed and not scene.last.images:
            names = " or ".join(f"“{part.name}”" for part in recordings)
            answer = (
                f"I heard no speech in {names}. Check the microphone, or that the recording "
                "is of someone speaking, and send it again."
            )
            return Route((), "no-speech", "The recording holds no speech.", answer)
        if scene.chosen is not None and scene.chosen.task is Task.SPEECH:
            return Route((), "write-down", f"You chose {scene.chosen.title}.", heard)
        if wants_only_translation(scene.conversation):
            return Route((), "translate", "You asked for what is said in another language.", heard)
        reads = bool(scene.last.images) and wants_text_of_picture(typed)
        if typed and wants_transcript(typed) and not reads:
            return Route((), "write-down", "You asked for what is said.", heard or "No speech.")
        if not typed and sum(part.seconds for part in recordings) > LONG_RECORDING_S:
            return Route((), "write-down", "A long recording without a question.", heard)
        return None

    def _draw(self, scene: _Scene) -> Route | None:
        chosen = scene.chosen is not None and scene.chosen.task is Task.DRAW
        card = self._for(Task.DRAW, scene)
        source = None if card is None else _to_redraw(scene, chosen)
        wanted = wants_drawing(scene.words) and not scene.last.images
        if not (chosen or wanted or source is not None):
            return None
        if card is None:
            return self._missing("draw", Task.DRAW)
        if not scene.words:
            raise RequestError(f"{card.title} draws from words. Say what to draw.")
        if source is not None:
            step = Step(Task.DRAW, card.name, "draw the picture anew", source.sha256)
            reason = f"You asked for “{source.name}” in another way, so {card.title} draws it anew."
            return Route((step,), "redraw", reason)
        step = Step(Task.DRAW, card.name, "make the picture")
        return Route((step,), "draw", f"You asked for a picture, so {card.title} makes it.")

    def _look(self, scene: _Scene) -> Route | None:
        if not scene.last.images:
            return None
        card, pictures = self._for(Task.IMAGE, scene), scene.last.images
        if card is None or not card.converses:  # one that converses tells them apart itself
            before = all_pictures(Conversation(scene.conversation.messages[:-1]))
            pictures = pictures_shown(scene.words, pictures, before)
        return self._at(scene, pictures, "picture", "The message has a picture")

    def _look_again(self, scene: _Scene) -> Route | None:
        earlier = all_pictures(scene.conversation)
        only_looking = scene.chosen is not None and scene.chosen.task is Task.IMAGE
        if scene.chosen is not None and only_looking and not earlier:
            raise RequestError(
                f"{scene.chosen.title} answers about pictures and this conversation has none. "
                "Add a picture, or choose “auto”."
            )
        if not earlier or not (only_looking or self._means_a_picture(scene, earlier)):
            return None
        meant = pictures_meant(scene.words, pictures_counted(scene.words, scene.conversation))
        if not meant:
            count = "one picture" if len(earlier) == 1 else f"{len(earlier)} pictures"
            answer = f"This conversation has {count} so far. Which one do you mean?"
            return Route((), "no-such-picture", "The picture asked for is not here.", answer)
        names = " and ".join(f"“{picture.name}”" for picture in meant)
        return self._at(scene, meant, "earlier-picture", f"The question is about {names}")

    def _means_a_picture(self, scene: _Scene, earlier: Sequence[ImagePart]) -> bool:
        """Naming a picture always counts; a mere “it” only while the talk is about one."""
        if names_a_picture(scene.words) or named_by_file(scene.words, earlier):
            return True
        if not is_about_pictures(scene.conversation.messages[:-1]):
            return False
        return refers_to_shown(scene.words)

    def _at(self, scene: _Scene, pictures: tuple[ImagePart, ...], rule: str, because: str) -> Route:
        card = self._for(Task.IMAGE, scene)
        if card is None:
            return self._missing("look at pictures", Task.IMAGE)
        told = scene.chosen is not None and scene.chosen.task is Task.TEXT
        if card.converses and not told:
            seen = tuple(dict.fromkeys(part.sha256 for part in pictures))
            step = Step(Task.IMAGE, card.name, "look and answer", pictures=seen)
            reason = f"{because}, so {card.title} looks at it and answers."
            return Route((step,), rule, reason + self._took_over(card, scene))
        focus = resolve_focus(scene.conversation)
        steps = tuple(
            Step(Task.IMAGE, card.name, "look at the picture", part.sha256, focus or "general")
            for part in pictures
        )
        only_looking = scene.chosen is not None and scene.chosen.task is Task.IMAGE
        speaker = self._for(Task.TEXT, scene)
        if only_looking or speaker is None or (focus is not None and not told):
            return Route(steps, rule, f"{because}, so {card.title} looks at it and answers.")
        talk = Step(Task.TEXT, speaker.name, "answer with what was seen")
        reason = f"{because}: {card.title} looks at it, then {speaker.title} answers."
        return Route((*steps, talk), rule, reason + self._took_over(speaker, scene))

    def _talk(self, scene: _Scene) -> Route:
        if scene.chosen is not None and scene.chosen.task is Task.SPEECH:
            raise RequestError(
                f"{scene.chosen.title} writes down recordings and this message has none. "
                "Add a recording, or choose “auto”."
            )
        card = self._for(Task.TEXT, scene)
        if card is None:
            return self._missing("answer text", Task.TEXT)
        if scene.chosen is card:
            return Route(_talking(card), "chosen", f"You chose {card.title}.")
        if scene.last.recordings:
            reason = f"What you said is a question in words, so {card.title} answers."
        else:
            reason = f"The message is text, so {card.title} answers."
        return Route(_talking(card), "text", reason + self._took_over(card, scene))

    def _aloud(self, route: Route, scene: _Scene) -> Route:
        """The same with its answer spoken, where that is wanted and there is a model for it."""
        draws = any(step.task is Task.DRAW for step in route.steps)
        if scene.conversation.controls.speak_in is None or route.again or draws:
            return route
        controls = scene.conversation.controls
        listed = [*map(self._catalog.card, self._profile.names)]
        if scene.chosen is not None:
            listed.insert(0, scene.chosen)
        known = controls.hearing.translate_to if route.rule == "translate" else None
        card = choose_speaker(listed, controls.speak_in, controls.voice, known)
        if card is None:
            return route
        return replace(route, aloud=Step(card.task, card.name, "speak the answer"))

    # ------------------------------------------------------------ models

    def _chosen(self, conversation: Conversation) -> ModelCard | None:
        name = conversation.controls.model
        return None if name == AUTO else self._catalog.card(name)

    def _for(self, task: Task, scene: _Scene) -> ModelCard | None:
        if scene.chosen is not None and scene.chosen.task is task:
            return scene.chosen
        name = self._defaults.name(task)
        return None if name is None else self._catalog.card(name)

    def _took_over(self, card: ModelCard, scene: _Scene) -> str:
        """Where this is the first answer of a card that took over from another one while this
        conversation went on, a sentence that says so."""
        first = self._defaults.first(card.task)
        if first is None or card.name in {first, scene.conversation.controls.model}:
            return ""
        steps = [
            step
            for message in scene.conversation.messages
            for route in (message.outcome.routes if message.outcome else ())
            for step in route.steps
            if step.task is card.task
        ]
        if not steps or steps[-1].card != first:
            return ""
        return f" It took over from {self._catalog.title(first)}, with which the program began."

    def _missing(self, ability: str, task: Task) -> Route:
        able = [p.title for p in self._catalog.profiles if p.default_name(task)]
        way = f"The set of models “{able[0]}” has one." if able else "No set of models has one yet."
        answer = (
            f"I cannot {ability} here: that needs {NEEDS[task]}, and this program was started with "
            f"“{self._profile.title}”, whose models do other things. {way}"
        )
        return Route((), f"no-{task}", f"No model of this profile can {ability}.", answer)


def _is_unheard(part: AudioPart, scene: _Scene) -> bool:
    """Whether it was not heard yet in the way that is now asked for, by the model now chosen."""
    if part.transcript is None or part.asked != scene.conversation.controls.hearing:
        return True
    if scene.chosen is None or scene.chosen.task is not Task.SPEECH:
        return False
    return part.heard_by not in {None, scene.chosen.name}


def _to_redraw(scene: _Scene, chosen: bool) -> ImagePart | None:
    """The picture to begin with: one of this message, or of the exchange just before it."""
    if not chosen and redraw_wish(scene.words) is None:
        return None
    if scene.last.images:
        return scene.last.images[-1]
    recent = scene.conversation.messages[-3:-1] if redraw_wish(scene.words) is not None else ()
    return next((message.images[-1] for message in reversed(recent) if message.images), None)


def _talking(card: ModelCard) -> tuple[Step, ...]:
    return (Step(Task.TEXT, card.name, "answer"),)
