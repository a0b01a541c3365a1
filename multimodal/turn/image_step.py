"""A step that makes a picture: what the engine is asked, and how its picture is kept."""

from __future__ import annotations

from multimodal.catalog.cards import ModelCard
from multimodal.errors import MediaError
from multimodal.events import ImageGenerated, ImageStored
from multimodal.media.ingestion import MediaFolder
from multimodal.media.pixels import SEEN_SIDE, within
from multimodal.messages import Conversation, ImagePart, Step
from multimodal.requests import ImageGenerationRequest
from multimodal.turn.image_prompts import prompt_of, redraw_wish


def draw_request(
    step: Step, conversation: Conversation, words: str, media: MediaFolder
) -> ImageGenerationRequest:
    """What `step` draws for `words`, the person's newest. A picture that was made here keeps its
    own prompt where it is drawn anew, since a wish such as “in blue” names no subject."""
    source, prompt = None, prompt_of(words)
    if step.sha256 is not None:
        part, made = _source(conversation, step.sha256)
        source = within(media.image(part), SEEN_SIDE)
        prompt = redraw_wish(words) or prompt
        if made and part.description:
            prompt = f"{part.description}, {prompt}"
    asked = conversation.controls.drawing
    return ImageGenerationRequest(
        prompt=prompt,
        negative_prompt=asked.negative_prompt,
        width=asked.width,
        height=asked.height,
        steps=asked.steps,
        guidance=asked.guidance,
        seed=conversation.controls.sampling.seed,
        source=source,
    )


def store_picture(
    made: ImageGenerated, request: ImageGenerationRequest, card: ModelCard, media: MediaFolder
) -> ImageStored:
    """Store a picture in the media folder; its file tells how it was made."""
    facts = {"prompt": request.prompt, "seed": str(made.seed), "model": card.title}
    if request.negative_prompt:
        facts["negative prompt"] = request.negative_prompt
    return ImageStored(media.add_made(made.png, request.prompt, facts))


def _source(conversation: Conversation, sha256: str) -> tuple[ImagePart, bool]:
    """The picture with these bytes, and whether it was made here rather than sent."""
    for message in reversed(conversation.messages):
        for part in message.images:
            if part.sha256 == sha256:
                return part, message.role == "assistant"
    raise MediaError("The picture to draw anew is no longer there. Add it again.")
