"""Speech into the box: a recording is written down and handed back, and no message is sent."""

from __future__ import annotations

import threading
from contextlib import closing

from multimodal.build import Program
from multimodal.errors import RequestError, TurnStoppedError
from multimodal.events import SpeechTranscribed
from multimodal.messages import AudioPart, Task, TranscriptionSettings
from multimodal.web.actions import Upload
from multimodal.web.attachments import Attachments
from multimodal.web.tab_session import TabSession


class Dictation:
    """Serves every person; of one tab only the newest recording is written down."""

    def __init__(self, program: Program, attachments: Attachments) -> None:
        self._program = program
        self._attachments = attachments
        self._lock = threading.Lock()
        self._stops: set[threading.Event] = set()

    def words(
        self, session: TabSession, file: Upload | None, hearing: TranscriptionSettings
    ) -> str:
        """What is said in the recording, in the language that is spoken, by the model that hears;
        "" where it was left before. One of the same tab that is still being written down is left.

        Raises the errors of `Assistant.transcribe`, and RequestError where no model hears or no
        words were heard.
        """
        stop = self._replace(session)
        if file is None:
            return ""
        card = self._program.defaults.name(Task.SPEECH)
        if card is None:
            raise RequestError("No model here writes down what is said. Type it instead.")
        path, name = self._attachments.find(file)
        media = self._program.media
        with self._lock:
            self._stops.add(stop)
        try:
            part = media.add_audio(path, name, media.intake(stop))
            return self._transcribed(part, card, stop, hearing)
        except TurnStoppedError:
            return ""
        finally:
            with self._lock:
                self._stops.discard(stop)

    def close(self) -> None:
        with self._lock:
            for stop in self._stops:
                stop.set()

    def _transcribed(
        self, part: AudioPart, card: str, stop: threading.Event, hearing: TranscriptionSettings
    ) -> str:
        words = ""
        events = self._program.assistant.transcribe(part, card, stop, language=hearing.language)
        with closing(events):
            for event in events:
                words = event.spoken.text if isinstance(event, SpeechTranscribed) else words
        if words := words.strip():
            return words
        if stop.is_set():
            return ""
        raise RequestError("No speech was heard in it, so nothing was written down.")

    def _replace(self, session: TabSession) -> threading.Event:
        stop = threading.Event()
        with session.lock:
            before, session.dictation = session.dictation, stop
        if before is not None:
            before.set()
        return stop
