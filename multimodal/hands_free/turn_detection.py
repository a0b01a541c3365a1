"""Where somebody speaks in a microphone's sound, while it comes in.

The detector is silero-VAD (`voice_activity.speech_probabilities`): a probability of speech for
each window of 32 ms. It is asked anew with the last second before each new window, since it keeps
no state between two calls; that takes a few milliseconds.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from multimodal.media.audio import SAMPLE_RATE

WINDOW = 512
"""Samples that get one probability: 32 ms."""
CONTEXT = 32 * WINDOW
"""Samples before a new window that the detector hears with it."""
SPEECH, QUIET = 0.5, 0.35
"""Speech begins at a probability of at least the first, and goes on down to the second; the
defaults of silero-VAD."""
ONSET = 5
"""Windows with speech, of the last eight, that begin an utterance: a click or a knock has fewer."""
RECENT = 8
LEAD_IN_S = 0.5
"""Of the sound before the onset, kept with the utterance: the detector finds soft consonants
late."""

Samples = NDArray[np.float32]
Detector = Callable[[Samples], NDArray[np.float32]]
"""Samples (windows * 512,), 16 kHz, to the probabilities of speech, shape (windows,)."""


@dataclass
class TurnDetector:
    """Keeps the utterance under way. For one thread at a time.

    An utterance begins with an onset of speech and lasts until `reset`, pauses and all.
    """

    detect: Detector
    is_begun: bool = False
    """Whether an utterance is under way."""
    voiced: int = 0
    """Windows of the utterance in which somebody speaks."""
    quiet: int = 0
    """Windows since somebody spoke last."""
    _waiting: Samples = field(default_factory=lambda: np.zeros(0, np.float32))
    _before: Samples = field(default_factory=lambda: np.zeros(CONTEXT, np.float32))
    _recent: list[bool] = field(default_factory=list)
    _utterance: list[Samples] = field(default_factory=list)

    def feed(self, samples: Samples) -> None:
        """Take in the next `samples` of the microphone (mono, 16 kHz)."""
        sound = np.concatenate([self._waiting, samples])
        whole = len(sound) // WINDOW * WINDOW
        self._waiting = sound[whole:]
        if not whole:
            return
        heard = np.concatenate([self._before, sound[:whole]])
        probabilities = self.detect(heard)[-(whole // WINDOW) :]
        self._before = heard[-CONTEXT:]
        for index, probability in enumerate(probabilities):
            self._take(sound[index * WINDOW : (index + 1) * WINDOW], float(probability))

    def reset(self) -> None:
        """End the utterance; what comes next begins another one."""
        self._utterance = [self.utterance[-int(LEAD_IN_S * SAMPLE_RATE) :]]
        self._recent, self.is_begun, self.voiced, self.quiet = [], False, 0, 0

    def drop(self, samples: int, voiced: int) -> None:
        """Forget the first `samples` of the utterance, with as many windows of speech; it goes
        on."""
        self._utterance = [self.utterance[samples:]]
        self.voiced -= voiced

    @property
    def utterance(self) -> Samples:
        """Its sound until now, with half a second before it; shape (samples,)."""
        return np.concatenate([*self._utterance, np.zeros(0, np.float32)])

    @property
    def quiet_s(self) -> float:
        return self.quiet * WINDOW / SAMPLE_RATE

    @property
    def voiced_s(self) -> float:
        return self.voiced * WINDOW / SAMPLE_RATE

    def _take(self, window: Samples, probability: float) -> None:
        self._utterance.append(window)
        was_speaking = self.is_begun and self.quiet == 0
        speaks = probability >= (QUIET if was_speaking else SPEECH)
        if self.is_begun:
            self.voiced += speaks
            self.quiet = 0 if speaks else self.quiet + 1
            return
        self._recent = [*self._recent[-RECENT + 1 :], speaks]
        if sum(self._recent) >= ONSET:
            self.is_begun, self.voiced, self.quiet = True, sum(self._recent), 0
        else:
            kept = int(LEAD_IN_S * SAMPLE_RATE) // WINDOW + RECENT
            self._utterance = self._utterance[-kept:]
