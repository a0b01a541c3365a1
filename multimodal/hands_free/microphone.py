"""What a browser sends of a microphone, as samples that the models hear."""

from __future__ import annotations

import av
import numpy as np
from numpy.typing import NDArray

from multimodal.errors import RequestError
from multimodal.media.audio import SAMPLE_RATE

RATES = range(8_000, 192_001)
LONGEST_S = 5.0
"""Of sound in one message; a page sends a tenth of a second."""


class MicrophoneStream:
    """16-bit samples of one channel, little-endian, at `rate` a second, to float32 at 16 kHz.

    Raises RequestError for a rate that no microphone has.
    """

    def __init__(self, rate: int) -> None:
        if rate not in RATES:
            raise RequestError(f"A microphone does not have {rate} samples a second.")
        self.rate = rate
        self.most_bytes = int(2 * rate * LONGEST_S)
        self._resampler = av.AudioResampler(format="flt", layout="mono", rate=SAMPLE_RATE)

    def samples(self, data: bytes) -> NDArray[np.float32]:
        """The next samples, shape (samples,), in [-1, 1]. Raises RequestError for half a sample."""
        if len(data) % 2:
            raise RequestError("The sound of the microphone came in halves. Begin anew.")
        if not data:
            return np.zeros(0, np.float32)
        values = np.frombuffer(data, "<i2")
        if self.rate == SAMPLE_RATE:
            return values.astype(np.float32) / 32768.0
        frame = av.AudioFrame.from_ndarray(values.reshape(1, -1), format="s16", layout="mono")
        frame.sample_rate = self.rate
        parts = [part.to_ndarray().reshape(-1) for part in self._resampler.resample(frame)]
        return np.concatenate([*parts, np.zeros(0, np.float32)]).astype(np.float32)
