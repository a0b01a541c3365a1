"""Quiet speech made as loud as speech usually is, so that it is taken for speech.

Detectors of voice activity are trained on speech of usual levels and take what is far below for
silence, though a recognizer would understand every word. Silence and steady noise stay as they are.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

FRAME = 480
"""Samples: 30 ms at 16 kHz."""
LOUDEST_FRAMES = 33
"""One second: the shortest speech that counts. Half of it may be clicks."""
QUIET = 10 ** (-35 / 20)
"""Levels are root mean squares of full scale. Speech below this one is amplified."""
USUAL = 10 ** (-20 / 20)
SILENCE = 10 ** (-84 / 20)
"""Two steps of 16 bits; below it there is nothing but rounding."""
STEADY = 1.5
"""Speech rises far above its own pauses; noise does not rise above itself by this much."""


def amplify_quiet_speech(waveform: NDArray[np.float32]) -> NDArray[np.float32]:
    """`waveform` (mono, 16 kHz, shape (samples,)), amplified where it is quiet and varies as speech
    does; else `waveform` itself."""
    frames = waveform[: len(waveform) // FRAME * FRAME].reshape(-1, FRAME)
    if not len(frames):
        return waveform
    levels = np.sqrt(np.einsum("ij,ij->i", frames, frames) / FRAME)
    loudest = np.sort(levels)[-LOUDEST_FRAMES:]
    speech, pauses = float(np.median(loudest)), float(np.percentile(levels, 10))
    if not SILENCE < speech < QUIET or speech < STEADY * pauses:
        return waveform
    louder: NDArray[np.float32] = np.clip(waveform * np.float32(USUAL / speech), -1, 1)
    return louder
