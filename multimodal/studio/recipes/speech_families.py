"""Which recognizer a card is of; each family is imported where it is used."""

from __future__ import annotations

from multimodal.studio.context import JobContext
from multimodal.studio.recipes.speech_model import SpeechModel


def load_speech_model(job: JobContext, longest_s: float) -> SpeechModel:
    """That of the job's card, for recordings of at most `longest_s` seconds, on the CPU. Raises
    BackendError for weights that are missing or damaged, and JobError for a language that it does
    not know."""
    card, files, language = job.start.card, job.start.files, job.settings.language
    if card.family in {"faster_whisper", "openai_whisper"}:
        from multimodal.studio.recipes.whisper_model import load_whisper

        return load_whisper(card, files, language, longest_s)
    if card.family == "seamless":
        from multimodal.studio.recipes.seamless_model import load_seamless

        return load_seamless(card, files, language)
    from multimodal.studio.recipes.ctc_model import load_ctc

    return load_ctc(card, files)
