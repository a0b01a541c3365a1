"""Findings about a picture put into plain English sentences, the same for the same findings."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from multimodal.backends.describer.detector import PERSON
from multimodal.backends.describer.findings import Text
from multimodal.backends.describer.labels import LIKELY, SURE, Labels
from multimodal.backends.describer.object_sentences import describe_doubts, overview, sure_groups
from multimodal.backends.describer.objects import FoundObject, LabelRelation
from multimodal.backends.describer.questions import answer_about_objects, object_named
from multimodal.backends.describer.wording import (
    MOST_COUNTED,
    join_list,
    spell_number,
    with_article,
)
from multimodal.messages import Focus
from multimodal.turn.intents import excerpt, sentences

TEXT_LEADS_SHARE = 0.06
TEXT_LEADS_CHARACTERS = 16
QUOTED_CHARACTERS = 300
DESCRIBED_CHARACTERS = 800
FILLS = 0.1
"""Share of the picture that a person takes up who fills it."""


@dataclass(frozen=True, slots=True)
class Findings:
    labels: Labels
    text: Text
    faces: int
    colours: tuple[str, ...]
    colourless: bool = False
    size: tuple[int, int] = (0, 0)
    reduced_from: tuple[int, int] | None = None
    """Width and height as it was looked at, and as it was sent where that is more."""
    objects: tuple[FoundObject, ...] = ()
    relation: LabelRelation = field(default_factory=LabelRelation)
    """Of the labels to the objects."""

    plurals: Mapping[str, str] = field(default_factory=dict)
    """Of the names of all objects that can be found."""

    @property
    def people(self) -> int:
        return sum(o.is_sure and o.category.name == PERSON for o in self.objects)


def answer(found: Findings, focus: Focus, question: str = "") -> str:
    """The reply to a question about the picture that the findings alone can answer."""
    if focus == "objects":
        return _about_objects(found, question)
    if focus == "text":
        told = (_all_text(found.text), _left_out(found.text), _made_smaller(found))
        return "\n\n".join(filter(None, told))
    if focus == "colours":
        verb = "colour is" if len(found.colours) == 1 else "colours are"
        return f"The main {verb} {join_list(found.colours)}."
    if focus == "faces":
        return _faces(found) or "I can find no face seen from the front in this picture."
    return caption(found)


def _about_objects(found: Findings, question: str) -> str:
    """The label of the whole picture stands in for an object that the detector missed."""
    named = {object_named(sentence) for sentence in sentences(excerpt(question))} - {None}
    seen = {o.category.name for o in found.objects}
    label = _label(found)
    if len(named) == 1 and not named & seen and _names(found, next(iter(named)) or ""):
        return label
    return answer_about_objects(question, found.objects, found.plurals, found.faces, label)


def caption(found: Findings) -> str:
    """What the picture shows, its text, faces and colours, the most telling first."""
    shown, text = _shown(found), _quoted(found.text)
    led_by_text = _is_about_text(found.text)
    sentences = [text, shown if _is_sure(found) or sure_groups(found.objects) else ""]
    if not led_by_text:
        sentences = [shown, text]
    faces = _faces(found) if found.faces > found.people else ""
    sentences += [_left_out(found.text), faces, _colours(found.colours)]
    sentences.append(_made_smaller(found) if found.text.lines else "")
    return " ".join(filter(None, sentences))


def description(found: Findings) -> str:
    """All findings, short, as context for a text model."""
    parts = [_shown(found)] if not _is_about_text(found.text) else ["It is mostly text."]
    if found.text.lines:
        parts.append(f"Text in it: “{_cut(' / '.join(found.text.lines), DESCRIBED_CHARACTERS)}”.")
    parts += [_left_out(found.text), _faces(found) or "No faces.", _colours(found.colours)]
    if found.text.lines and (told := _made_smaller(found)):
        parts.append(told)
    return " ".join(filter(None, parts))


def _is_about_text(text: Text) -> bool:
    return text.characters >= TEXT_LEADS_CHARACTERS and text.share >= TEXT_LEADS_SHARE


def _shown(found: Findings) -> str:
    """The objects and the label of the whole picture, one thing said once."""
    groups = sure_groups(found.objects)
    named = [group.category.name for group in groups]
    is_alone = len(groups) == 1 and len(groups[0].sure) == 1
    if not groups or (is_alone and _is_sure(found) and _names(found, named[0])):
        sentences = [_label(found)]
    else:
        details = {name: _detail(found, len(g.sure)) for name, g in zip(named, groups, strict=True)}
        told = {name: detail for name, detail in details.items() if _names(found, name) and detail}
        sentences = [f"This shows {overview(found.objects, told)}.", _besides(found)]
    return " ".join(filter(None, (*sentences, describe_doubts(found.objects))))


def _names(found: Findings, category: str) -> bool:
    """Whether the label is a kind of that object."""
    relation = found.relation
    return found.labels.certainty >= LIKELY and relation.is_kind and relation.category == category


def _specific(found: Findings) -> str:
    labels = found.labels
    return labels.closer.word if labels.closer else labels.best.word


def _detail(found: Findings, count: int) -> str:
    """The kind that one of so many objects is by the label; "" if it says no more than they do."""
    word = _specific(found)
    category = found.relation.category or ""
    if word != found.labels.others[0].word or category in word or count > MOST_COUNTED:
        return ""
    one = "" if count == 1 else "one of them "
    return f"{one}{'most likely' if _is_sure(found) else 'perhaps'} {with_article(word)}"


def _besides(found: Findings) -> str:
    """What the label says that the objects do not. Where people fill the picture it says least:
    ImageNet has no class for them, and takes what they do for a thing."""
    relation, objects = found.relation, found.objects
    named = {o.category.name for o in objects}
    if found.labels.certainty < LIKELY or relation.is_implied or relation.category in named:
        return ""
    best, what = found.labels.best.word, with_article(_specific(found))
    if relation.is_scene:
        return f"The scene {'looks like' if _is_sure(found) else 'may be'} {what}."
    fills = any(o.category.name == PERSON and o.box.area >= FILLS for o in objects)
    if fills and relation.category is None:
        return ""
    if _is_sure(found) and not fills:
        kind = "" if what == with_article(best) else f", most likely {what}"
        return f"It also shows what looks like {with_article(best)}{kind}."
    return f"It may also show {with_article(best)}." if _is_sure(found) or not fills else ""


def _label(found: Findings) -> str:
    best, closer = found.labels.best, found.labels.closer
    share = "" if found.colourless else f" ({min(99, round(100 * best.probability))} %)"
    if found.labels.certainty >= LIKELY:
        verb = "This looks like" if _is_sure(found) else "This may be"
        is_closer = closer is not None and closer.word != best.word
        more = f", most likely {with_article(closer.word)}" if closer and is_closer else ""
        return f"{verb} {with_article(best.word)}{more}{share}."
    if found.faces:
        return "This may show people." if found.faces > 1 else "This may show a person."
    guesses = " or ".join(with_article(name.word) for name in found.labels.others[:2])
    return f"I am not sure what this shows; it might be {guesses}."


def _is_sure(found: Findings) -> bool:
    """Never of a picture without colour: the network learned from colour photographs, and takes
    the moon for a worm and the outline of a horse for a hound."""
    return found.labels.certainty >= SURE and not found.colourless


def _quoted(text: Text) -> str:
    if not text.lines:
        return ""
    return f"The picture contains text: “{_cut(' / '.join(text.lines), QUOTED_CHARACTERS)}”."


def _all_text(text: Text) -> str:
    if not text.lines:
        return "I can find no text in this picture that I could read."
    lines = "\n".join(text.lines)
    return f"The picture says:\n\n{lines}"


def _left_out(text: Text) -> str:
    if text.is_whole:
        return ""
    return "There is more text in it than is read of one picture; the end was left out."


def _made_smaller(found: Findings) -> str:
    if found.reduced_from is None:
        return ""
    sent, seen = (f"{width}x{height}" for width, height in (found.reduced_from, found.size))
    change = f"was made smaller, from {sent} to {seen} pixels"
    return f"The picture {change}; small print may be misread."


def _faces(found: Findings) -> str:
    """With doubt where no person is seen: patterns of leaves and fur look like faces."""
    if found.faces == 0:
        return ""
    told = f"{spell_number(found.faces)} face{'s' if found.faces > 1 else ''}"
    return f"I can see {told}." if found.people else f"There may be {told} in it."


def _colours(names: Sequence[str]) -> str:
    return f"Main colour{'s' if len(names) > 1 else ''}: {join_list(names)}."


def _cut(text: str, characters: int) -> str:
    return text if len(text) <= characters else f"{text[:characters].rsplit(' ', 1)[0]} …"
