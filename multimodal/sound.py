"""Recordings of any container and codec that FFmpeg reads, to 16 kHz mono and back to FLAC or WAV.

The bytes are a stranger's: no protocol and no playlist is followed, and decoding stops at a length,
whatever the header says.
"""

from __future__ import annotations

import io
import wave
from collections.abc import Iterator
from itertools import chain

import av
import numpy as np
from numpy.typing import NDArray

from multimodal.errors import MediaError

SAMPLE_RATE = 16_000
# Containers that hold sound themselves: a playlist could name other files, or addresses to fetch.
DEMUXING = {
    "format_whitelist": "wav,w64,mp3,flac,ogg,matroska,webm,mov,mp4,m4a,aac,aiff,amr,asf,caf,au",
    "protocol_whitelist": "none",
}


def decode(data: bytes, name: str, max_s: float) -> NDArray[np.float32]:
    """The recording, float32 in [-1, 1], mono, 16 kHz, shape (samples,). Raises MediaError."""
    try:
        with av.open(io.BytesIO(data), mode="r", options=DEMUXING) as container:
            if not container.streams.audio:
                raise MediaError(f"“{name}” has no sound. Send a recording with speech.")
            pieces = list(_pieces(container, name, max_s))
    except MediaError:
        raise
    except Exception as error:  # whatever a decoder makes of hostile bytes
        raise MediaError(
            f"“{name}” is not a picture or a recording this program can read, or it is "
            "damaged. Pictures: JPEG, PNG, WebP. Sound: WAV, MP3, M4A, OGG, FLAC."
        ) from error
    if not pieces:
        raise MediaError(f"“{name}” holds 0 seconds of sound. Record it again.")
    return np.concatenate(pieces)


def _pieces(
    container: av.container.InputContainer, name: str, max_s: float
) -> Iterator[NDArray[np.float32]]:
    """Decoded pieces, stopped once they pass the limit, whatever the header says."""
    resampler = av.AudioResampler(format="flt", layout="mono", rate=SAMPLE_RATE)
    samples = 0
    for frame in chain(_frames(container), (None,)):
        for part in resampler.resample(frame):
            samples += part.samples
            if samples > max_s * SAMPLE_RATE:
                claimed_s = (container.duration or 0) / av.time_base
                length = _clock(max(claimed_s, samples / SAMPLE_RATE))
                most = f"at most {_clock(max_s)} can be heard at once"
                raise MediaError(f"“{name}” is {length} or longer; {most}. Cut it into parts.")
            yield part.to_ndarray()[0].copy()


def flac(waveform: NDArray[np.float32]) -> bytes:
    """A recording of that rate, as FLAC with 16 bits a sample."""
    buffer = io.BytesIO()
    pcm = _pcm(waveform).reshape(1, -1)
    with av.open(buffer, mode="w", format="flac") as container:
        stream = container.add_stream("flac", rate=SAMPLE_RATE, layout="mono")
        for start in range(0, pcm.shape[1], SAMPLE_RATE):
            block = np.ascontiguousarray(pcm[:, start : start + SAMPLE_RATE])
            frame = av.AudioFrame.from_ndarray(block, format="s16", layout="mono")
            frame.sample_rate, frame.pts = SAMPLE_RATE, start
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return buffer.getvalue()


def wav(waveform: NDArray[np.float32]) -> bytes:
    """A recording of that rate, as WAV with 16 bits a sample."""
    buffer = io.BytesIO()
    with wave.open(buffer, "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(SAMPLE_RATE)
        file.writeframes(_pcm(waveform).tobytes())
    return buffer.getvalue()


def _pcm(waveform: NDArray[np.float32]) -> NDArray[np.int16]:
    samples: NDArray[np.int16] = np.clip(waveform * 32768.0, -32768, 32767).astype(np.int16)
    return samples


def _frames(container: av.container.InputContainer) -> Iterator[av.AudioFrame]:
    """What can be decoded of the first sound track. Damaged packets are left out as long as most
    are whole; raises FFmpegError where they are not."""
    packets = container.demux(container.streams.audio[0])
    whole = damaged = 0
    while True:
        try:
            if (packet := next(packets, None)) is None:
                return
            frames = packet.decode()
        except av.FFmpegError:
            damaged += 1
            if damaged > whole:
                raise
        else:
            whole += bool(frames)
            yield from (frame for frame in frames if isinstance(frame, av.AudioFrame))


def _clock(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02}:{rest:02}"
