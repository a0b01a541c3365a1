"""Recordings of any container and codec that FFmpeg reads, to 16 kHz mono and back to FLAC or WAV;
quiet speech as loud as speech usually is.

The bytes are a stranger's: no protocol and no playlist is followed, and decoding stops at a length
and at a number of samples, whatever the header says. It is resampled as it is decoded, so that only
the result is held in memory.
"""

from __future__ import annotations

import io
import threading
import wave
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from itertools import chain

import av
import numpy as np
from numpy.typing import NDArray

from multimodal.errors import MediaError, MultimodalError
from multimodal.limits import DecodeQuota, Limits
from multimodal.media.decode_queue import stopped_error

SAMPLE_RATE = 16_000
# Containers that hold sound themselves: a playlist could name other files, or addresses to fetch.
DEMUXING = {
    "format_whitelist": (
        "wav,w64,mp3,mpeg,flac,ogg,matroska,webm,mov,mp4,m4a,aac,aiff,amr,asf,caf,au"
    ),
    "protocol_whitelist": "none",
}
LEAST_OF_LOUDER = 0.2
"""Of the louder channel's energy, what must be left of two channels that are added. Half the sum of
a channel and silence keeps a quarter."""


def decode(
    data: bytes,
    name: str,
    limits: Limits,
    quota: DecodeQuota | None = None,
    stop: threading.Event | None = None,
) -> NDArray[np.float32]:
    """The recording, float32 in [-1, 1], mono, 16 kHz, shape (samples,).

    Raises MediaError for what cannot be heard or is out of bounds, TurnStoppedError once `stop` is
    set.
    """
    work = _Decoding(name, limits, quota or DecodeQuota(limits), stop or threading.Event())
    try:
        with _opened(data) as container:
            if not container.streams.audio:
                raise MediaError(f"“{name}” has no sound. Send a recording with speech.")
            claimed_s = (container.duration or 0) / av.time_base
            track = container.streams.audio[0]
            if work.is_too_much(claimed_s, track):
                with _opened(data) as again:
                    work.check_packets(again, claimed_s)
            waveform = work.decoded(container, claimed_s)
    except MultimodalError:
        raise
    except Exception as error:  # whatever a decoder makes of hostile bytes
        raise MediaError(
            f"“{name}” is not a picture or a recording this program can read, or it is "
            "damaged. Pictures: JPEG, PNG, WebP. Sound: WAV, MP3, M4A, OGG, FLAC."
        ) from error
    if not len(waveform):
        raise MediaError(f"“{name}” holds 0 seconds of sound. Record it again.")
    return waveform


def _opened(data: bytes) -> av.container.InputContainer:
    return av.open(io.BytesIO(data), mode="r", options=DEMUXING)


@dataclass
class _Decoding:
    """One recording on its way from any rate and number of channels to mono at 16 kHz."""

    name: str
    limits: Limits
    quota: DecodeQuota
    stop: threading.Event

    def is_too_much(self, seconds: float, track: av.AudioStream) -> bool:
        samples = seconds * track.rate * track.channels
        return seconds > self.limits.max_audio_s or samples > self.limits.audio_samples

    def check_packets(self, container: av.container.InputContainer, claimed_s: float) -> None:
        """Raise MediaError where what is stored is as long as the header says, without decoding."""
        track, seconds = container.streams.audio[0], 0.0
        for packet in container.demux(track):
            seconds += float((packet.duration or 0) * packet.time_base)
            self._check(seconds, claimed_s, track.rate, track.channels)

    def decoded(
        self, container: av.container.InputContainer, claimed_s: float
    ) -> NDArray[np.float32]:
        """The mono sound; what is longer than the limits stops it, whatever the header says."""
        resampler: av.AudioResampler | None = None
        channels, stored, heard = 1, 0, 0
        # Only what is written to takes memory.
        most = int(self.limits.max_audio_s * SAMPLE_RATE)
        sides = np.empty((2, most), np.float32)
        for frame in chain(_frames(container), (None,)):
            if self.stop.is_set():
                raise stopped_error()
            if frame is not None:
                count, rate = frame.layout.nb_channels, frame.sample_rate
                if resampler is None:
                    channels = min(2, count)
                    layout = "mono" if channels == 1 else "stereo"
                    resampler = av.AudioResampler(format="fltp", layout=layout, rate=SAMPLE_RATE)
                stored += frame.samples * count
                self.quota.take_samples(frame.samples * count)
                self._check(stored / count / rate, claimed_s, rate, count)
            for part in resampler.resample(frame) if resampler else ():
                if heard + part.samples > most:
                    raise self._too_long(max(claimed_s, (heard + part.samples) / SAMPLE_RATE))
                sides[:channels, heard : heard + part.samples] = part.to_ndarray()
                heard += part.samples
        return _mixed(sides[:channels, :heard])

    def _check(self, seconds: float, claimed_s: float, rate: int, channels: int) -> None:
        if seconds > self.limits.max_audio_s:
            raise self._too_long(max(seconds, claimed_s))
        if seconds * rate * channels > self.limits.audio_samples:
            most = _clock(self.limits.audio_samples / rate / channels)
            raise MediaError(
                f"“{self.name}” has {channels} channels of {rate:,} samples a second; at most "
                f"{most} of such sound can be heard at once. Save it as mono at 16 kHz, or cut it "
                "into parts."
            )

    def _too_long(self, seconds: float) -> MediaError:
        most = f"at most {_clock(self.limits.max_audio_s)} can be heard at once"
        length = _clock(seconds)
        return MediaError(f"“{self.name}” is {length} or longer; {most}. Cut it into parts.")


def _mixed(sides: NDArray[np.float32]) -> NDArray[np.float32]:
    """One or two channels, shape (channels, samples), to one, shape (samples,), in place.

    Channels that would cancel each other, as where one of them is inverted, are subtracted.
    """
    left: NDArray[np.float32] = sides[0]
    if len(sides) == 1:
        return left
    right = sides[1]
    own = [float(np.dot(side, side)) for side in sides]
    shared = float(np.dot(left, right))
    together = (sum(own) + 2 * shared) / 4
    if together < LEAST_OF_LOUDER * max(own):
        left -= right
    else:
        left += right
    left /= 2
    return left


def flac(waveform: NDArray[np.float32]) -> bytes:
    """A recording of that rate, as FLAC with 16 bits a sample."""
    buffer = io.BytesIO()
    with av.open(buffer, mode="w", format="flac") as container:
        stream = container.add_stream("flac", rate=SAMPLE_RATE, layout="mono")
        for start in range(0, len(waveform), SAMPLE_RATE):
            block = pcm(waveform[start : start + SAMPLE_RATE]).reshape(1, -1)
            frame = av.AudioFrame.from_ndarray(block, format="s16", layout="mono")
            frame.sample_rate, frame.pts = SAMPLE_RATE, start
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return buffer.getvalue()


def wav(waveform: NDArray[np.float32], sample_rate: int = SAMPLE_RATE) -> bytes:
    """A recording, mono, as WAV with 16 bits a sample."""
    buffer = io.BytesIO()
    with wave.open(buffer, "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(sample_rate)
        file.writeframes(pcm(waveform).tobytes())
    return buffer.getvalue()


def at_speed(waveform: NDArray[np.float32], sample_rate: int, speed: float) -> NDArray[np.float32]:
    """A recording, mono, `speed` times as fast (0.5 to 2) and at the same pitch."""
    if speed == 1 or not len(waveform):
        return waveform
    graph = av.filter.Graph()
    source = graph.add_abuffer(
        format="flt", sample_rate=sample_rate, layout="mono", time_base=Fraction(1, sample_rate)
    )
    tempo, sink = graph.add("atempo", str(speed)), graph.add("abuffersink")
    graph.link_nodes(source, tempo, sink).configure()
    frame = av.AudioFrame.from_ndarray(waveform[np.newaxis], format="flt", layout="mono")
    frame.sample_rate, frame.pts = sample_rate, 0
    graph.push(frame)
    graph.push(None)
    parts: list[NDArray[np.float32]] = []
    while True:
        try:
            made = graph.pull()
        except (av.error.EOFError, av.error.BlockingIOError):
            return np.concatenate(parts) if parts else waveform[:0]
        if isinstance(made, av.AudioFrame):
            parts.append(made.to_ndarray().reshape(-1).astype(np.float32))


def pcm(waveform: NDArray[np.float32]) -> NDArray[np.int16]:
    """The same with 16 bits a sample."""
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


# ------------------------------------------------------------ loudness
# Detectors of voice activity are trained on speech of usual levels and take what is far below for
# silence, though a recognizer would understand every word. Silence and steady noise stay as they
# are.

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
