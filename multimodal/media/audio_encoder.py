"""Speech as it is made, to the formats that programs ask for: each piece gives the bytes that are
ready by then, so that a stream can be heard from its first sentence on."""

from __future__ import annotations

import io
import struct
from dataclasses import dataclass

import av
import numpy as np

SAMPLE_RATE = 24_000
"""Of everything that is sent: what clients take raw PCM for, and every codec here can carry."""
UNKNOWN = 0xFFFFFFFF
"""The length that a WAV header gives while the length is not known."""


@dataclass(frozen=True, slots=True)
class AudioFormat:
    """`container` and `codec` by FFmpeg's names; None where no codec is needed."""

    media_type: str
    container: str | None = None
    codec: str | None = None
    options: tuple[tuple[str, str], ...] = ()
    bit_rate: int | None = None


FORMATS = {
    # Without the header that would be written last, at the beginning.
    "mp3": AudioFormat("audio/mpeg", "mp3", "libmp3lame", (("write_xing", "0"),), 64_000),
    "opus": AudioFormat("audio/ogg", "ogg", "libopus", (("page_duration", "200000"),), 32_000),
    "aac": AudioFormat("audio/aac", "adts", "aac", (), 64_000),
    "flac": AudioFormat("audio/flac", "flac", "flac"),
    "wav": AudioFormat("audio/wav"),
    "pcm": AudioFormat("audio/pcm"),
}


class AudioEncoder:
    """One stream. What it is fed is mono with 16 bits a sample; so is what it makes."""

    def __init__(self, name: str) -> None:
        self._format = FORMATS[name]
        self._sink = _Sink()
        self._resampler: av.AudioResampler | None = None
        self._rate = 0
        self._written = 0
        self._container: av.container.OutputContainer | None = None
        self._stream: av.AudioStream | None = None
        if self._format.container and self._format.codec:
            options = dict(self._format.options)
            self._container = av.open(
                self._sink, mode="w", format=self._format.container, options=options
            )
            stream = self._container.add_stream(self._format.codec, SAMPLE_RATE, layout="mono")
            if isinstance(stream, av.AudioStream):
                if self._format.bit_rate is not None:
                    stream.bit_rate = self._format.bit_rate
                self._stream = stream
        elif name == "wav":
            self._sink.write(_wav_header())

    def encode(self, pcm: bytes, sample_rate: int) -> bytes:
        """The bytes that are ready once `pcm` was said."""
        samples = np.frombuffer(pcm, "<i2").reshape(1, -1)
        if self._resampler is None or self._rate != sample_rate:
            self._drain()
            self._resampler = av.AudioResampler(format="s16", layout="mono", rate=SAMPLE_RATE)
            self._rate = sample_rate
        if samples.size:
            frame = av.AudioFrame.from_ndarray(samples, format="s16", layout="mono")
            frame.sample_rate = sample_rate
            self._write(self._resampler.resample(frame))
        return self._sink.taken()

    def finish(self) -> bytes:
        """The bytes that are left; nothing can be encoded afterwards."""
        self._drain()
        if self._container is not None and self._stream is not None:
            self._container.mux(self._stream.encode(None))
            self._container.close()
        return self._sink.taken()

    def _drain(self) -> None:
        if self._resampler is not None:
            self._write(self._resampler.resample(None))

    def _write(self, frames: list[av.AudioFrame]) -> None:
        for frame in frames:
            if self._container is None or self._stream is None:
                self._sink.write(frame.to_ndarray().astype("<i2").tobytes())
            else:
                frame.pts = self._written
                self._container.mux(self._stream.encode(frame))
            self._written += frame.samples


class _Sink:
    """A file that is only written to, and never sought in."""

    def __init__(self) -> None:
        self._buffer = io.BytesIO()

    def write(self, data: bytes) -> int:
        return self._buffer.write(data)

    def taken(self) -> bytes:
        data, self._buffer = self._buffer.getvalue(), io.BytesIO()
        return data


def _wav_header() -> bytes:
    """Of a WAV whose length is not known yet, as FFmpeg writes one to a pipe."""
    return struct.pack(
        "<4sI4s4sIHHIIHH4sI", b"RIFF", UNKNOWN, b"WAVE", b"fmt ", 16, 1, 1, SAMPLE_RATE,
        SAMPLE_RATE * 2, 2, 16, b"data", UNKNOWN,
    )  # fmt: skip
