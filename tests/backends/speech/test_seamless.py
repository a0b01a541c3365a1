"""SeamlessM4T v2, from a tiny random checkpoint in the published layout: what it hears, what it
speaks, and the whole program with it."""

from __future__ import annotations

import io
import threading
import wave
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2 as httpx
import numpy as np
import openai
import psutil
import pytest
import torch
import transformers
from fakes import client_at, served
from tiny_engines import leave_and_return
from tiny_hearing import heard, save_seamless
from tiny_models import hub_card
from tiny_voices import save_voices

from multimodal.backends.base import load
from multimodal.backends.speech import recognizer
from multimodal.backends.speech.seamless import PAUSE_S, Seamless
from multimodal.backends.speech.voice_activity import split_audio, windows
from multimodal.build import build
from multimodal.errors import BackendError, CardError, PromptError, RequestError
from multimodal.events import Notice, Progress, SentenceSpoken, SpeechGenerated, SpeechTranscribed
from multimodal.limits import Limits
from multimodal.media import audio
from multimodal.requests import TranscriptionRequest, TTSRequest
from multimodal.settings import read_settings

TASK = "automatic-speech-recognition"
TEXT = "The river runs to the sea."
Checkpoint = tuple[Path, dict[str, Any]]


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Checkpoint:
    folder = tmp_path_factory.mktemp("seamless")
    return folder, save_seamless(folder)


def loaded(checkpoint: Checkpoint, **facts: Any) -> Seamless:
    folder, config = checkpoint
    card = hub_card("seamless", "SeamlessM4Tv2Model", config, **{"task": TASK, **facts})
    model = load(card, folder, "cpu")
    assert isinstance(model, Seamless)
    return model


@pytest.fixture(scope="module")
def model(checkpoint: Checkpoint) -> Seamless:
    return loaded(checkpoint)


def written(
    folder: Path, waveform: Any, code: str, dtype: torch.dtype = torch.float32, **more: Any
) -> str:
    """What transformers' own class for this one task writes."""
    cls = transformers.SeamlessM4Tv2ForSpeechToText
    model = cls.from_pretrained(folder, dtype=dtype).eval()
    processor = transformers.SeamlessM4TProcessor.from_pretrained(folder)
    said = []
    for window in windows(waveform):
        inputs = processor(audio=window.samples, sampling_rate=16_000, return_tensors="pt")
        inputs["input_features"] = inputs["input_features"].to(dtype)
        made = model.generate(**inputs, tgt_lang=code, **more)
        said += processor.batch_decode(made, skip_special_tokens=True)
    return " ".join(said)


def spoken(model: Seamless, text: str, **more: Any) -> Any:
    """The samples of what was said aloud."""
    *_, made = model.run(TTSRequest(text, **more), threading.Event())
    assert isinstance(made, SpeechGenerated)
    samples = audio.decode(made.wav, "spoken", Limits())
    assert len(samples) == pytest.approx(made.seconds * 16_000, abs=1)
    return samples


# ------------------------------------------------------------ hearing


@pytest.mark.parametrize(("kind", "dtype"), [("fp32", torch.float32), ("bf16", torch.bfloat16)])
def test_it_writes_what_generate_writes_in_each_language(
    checkpoint: Checkpoint, story: Any, kind: str, dtype: torch.dtype
) -> None:
    model, folder = loaded(checkpoint, quantization=[kind]), checkpoint[0]
    told = heard(model, story, language="fr", translate_to_english_unless=("en",))
    assert told.spoken.text == written(folder, story, "fra", dtype)
    assert told.english.text == written(folder, story, "eng", dtype)
    assert told.spoken.text != told.english.text
    assert told.spoken.language == "fr"


def test_the_language_is_the_one_asked_for_else_the_cards_else_english(
    checkpoint: Checkpoint, model: Seamless, story: Any
) -> None:
    folder = checkpoint[0]
    plain = heard(model, story, translate_to_english_unless=("en",))
    assert (plain.spoken.language, plain.english) == ("en", None)
    assert plain.spoken.text == written(folder, story, "eng")
    french = loaded(checkpoint, engine={"language": "fr"})
    assert heard(french, story).spoken.text == written(folder, story, "fra")
    assert heard(french, story, language="zh").spoken.text == written(folder, story, "cmn")
    assert heard(model, story, language="fra").spoken.text == written(folder, story, "fra")


def test_it_translates_into_the_language_that_is_wanted(checkpoint: Checkpoint, story: Any) -> None:
    model = loaded(checkpoint, languages=["en", "fr", "zh"], translates=["*"])
    told = heard(model, story, translate_to="zh")
    assert told.spoken.text == written(checkpoint[0], story, "eng")
    assert told.translation.text == written(checkpoint[0], story, "cmn")
    assert (told.spoken.language, told.english) == ("en", None)
    same = heard(model, story, language="fr", translate_to="fr")
    assert (same.spoken.text, same.translation) == (written(checkpoint[0], story, "fra"), None)
    both = heard(
        model, story, language="fr", translate_to="zh", translate_to_english_unless=("en",)
    )
    assert both.english.text == written(checkpoint[0], story, "eng")
    assert both.translation.text == told.translation.text


def test_a_language_that_its_card_does_not_name_is_not_translated_to(
    checkpoint: Checkpoint, story: Any
) -> None:
    model = loaded(checkpoint)
    events = list(model.run(TranscriptionRequest(story, translate_to="fr"), threading.Event()))
    (notice,) = (event for event in events if isinstance(event, Notice))
    assert "does not translate into French" in notice.text
    assert isinstance(events[-1], SpeechTranscribed)
    assert events[-1].translation is None


@pytest.mark.parametrize("language", ["de", "gsw", "xx", "lb"])
def test_a_language_it_does_not_know_is_told(model: Seamless, story: Any, language: str) -> None:
    with pytest.raises(RequestError, match=f"{language}'. Take one of en, fr, zh, or choose"):
        model.run(TranscriptionRequest(story, language), threading.Event())


def test_a_card_with_a_language_of_which_it_knows_nothing_is_refused(
    checkpoint: Checkpoint,
) -> None:
    with pytest.raises(CardError, match=r"engine\.language: Tiny does not know the language 'tlh'"):
        loaded(checkpoint, engine={"language": "tlh"})


def test_several_guesses_are_followed_where_the_card_says_so(
    checkpoint: Checkpoint, story: Any
) -> None:
    wide = loaded(checkpoint, engine={"beam_size": 3})
    assert heard(wide, story).spoken.text == written(checkpoint[0], story, "eng", num_beams=3)


def test_a_long_recording_is_heard_piece_by_piece(
    checkpoint: Checkpoint, model: Seamless, story: Any
) -> None:
    pause = np.zeros(16_000 * (recognizer.PIECE_S - 2) - len(story), np.float32)
    long = np.concatenate([story, pause, np.zeros(32_000, np.float32), story])
    told = heard(model, long)
    expected = [written(checkpoint[0], piece, "eng") for _, piece in split_audio(long, 120)]
    assert told.spoken.text == " ".join(expected)
    first, second = told.spoken.segments
    assert first.end_s == pytest.approx(len(story) / 16_000, abs=1)
    assert second.start_s == pytest.approx(recognizer.PIECE_S, abs=1)


def test_a_stop_ends_the_hearing_within_a_token(model: Seamless, story: Any) -> None:
    stop = threading.Event()
    stop.set()
    manner = recognizer.TranscribeOptions("transcribe", "en", None, stop.is_set)
    cut = model.words(story, manner, lambda samples: False)
    assert len(cut.text) < len(heard(model, story).spoken.text) / 4
    stream = model.run(TranscriptionRequest(story), stop)
    assert not [event for event in stream if isinstance(event, SpeechTranscribed)]


# ------------------------------------------------------------ speaking


def test_it_speaks_as_transformers_speaks(checkpoint: Checkpoint, model: Seamless) -> None:
    whole = transformers.SeamlessM4Tv2ForTextToSpeech.from_pretrained(checkpoint[0]).eval()
    processor = transformers.SeamlessM4TProcessor.from_pretrained(checkpoint[0])
    for code, language, speaker in (("eng", "en", 0), ("fra", "fr", 3)):
        inputs = processor(text=TEXT, src_lang="eng", return_tensors="pt")
        waveform, _ = whole.generate(**inputs, tgt_lang=code, speaker_id=speaker)
        samples = spoken(model, TEXT, language=language, text_language="en", voice=str(speaker))
        assert len(samples) == waveform.shape[1]
        assert np.allclose(samples, waveform[0].numpy(), atol=2 / 32768)


def units(count: int) -> dict[str, torch.Tensor]:
    """What the vocoder makes sound of: `count` units of speech, of one speaker and language."""
    choice = torch.zeros(1, 1, dtype=torch.long)
    return {"input_ids": torch.arange(5, 5 + count)[None], "speaker_id": choice, "lang_id": choice}


def test_a_voice_in_sixteen_bits_is_computed_in_fp32_on_a_processor(
    checkpoint: Checkpoint,
) -> None:
    vocoder = loaded(checkpoint, quantization=["bf16"]).modules()[0].vocoder
    cls = transformers.SeamlessM4Tv2ForTextToSpeech
    plain = cls.from_pretrained(checkpoint[0], dtype=torch.bfloat16).eval().vocoder
    plain.hifi_gan.float().register_forward_pre_hook(lambda _, given: (given[0].float(),))
    with torch.inference_mode():
        (made, length), (expected, same) = vocoder(**units(10)), plain(**units(10))
    assert {weight.dtype for weight in vocoder.parameters()} == {torch.bfloat16}
    assert (made.dtype, length) == (torch.float32, same)
    assert torch.equal(made, expected)


def test_a_voice_in_sixteen_bits_keeps_no_memory_for_each_length(checkpoint: Checkpoint) -> None:
    vocoder, process = (
        loaded(checkpoint, quantization=["bf16"]).modules()[0].vocoder,
        psutil.Process(),
    )
    taken = []
    with torch.inference_mode():
        for count in (20, 25, 30, 35):
            vocoder(**units(count))
            taken.append(process.memory_info().rss)
    assert taken[-1] - taken[0] < 400e6


def test_sentences_are_spoken_one_after_another(model: Seamless) -> None:
    one, other = spoken(model, TEXT), spoken(model, "Is it red?")
    both = spoken(model, f"{TEXT} Is it red?")
    pause = np.zeros(int(PAUSE_S * 16_000), np.float32)
    assert np.array_equal(both, np.concatenate([one, pause, other]))
    events = list(model.run(TTSRequest(f"{TEXT} Is it red?"), threading.Event()))
    assert [event.fraction for event in events if isinstance(event, Progress)] == [0.5, 1.0]
    parts = [event for event in events if isinstance(event, SentenceSpoken)]
    assert [part.text for part in parts] == [TEXT, "Is it red?"]
    assert sum(len(part.pcm) for part in parts) == 2 * len(both)


@pytest.mark.parametrize(
    ("request_", "sentence"),
    [
        (TTSRequest(TEXT, "zh"), "does not know the language 'zh'"),
        (TTSRequest(TEXT, "en", "de"), "does not know the language 'de'"),
        (TTSRequest(TEXT, voice="8"), "has no voice 8; take one from 0 to 7"),
    ],
)
def test_what_it_cannot_speak_is_told(model: Seamless, request_: TTSRequest, sentence: str) -> None:
    with pytest.raises(RequestError, match=sentence):
        model.run(request_, threading.Event())


def test_nothing_to_say_is_told(model: Seamless) -> None:
    with pytest.raises(PromptError, match="no word in the text"):
        model.run(TTSRequest(" ... "), threading.Event())


# ------------------------------------------------------------ memory


@pytest.mark.parametrize("kind", ["nf4-double", "int8"])
def test_a_packed_model_hears_and_speaks_too(checkpoint: Checkpoint, story: Any, kind: str) -> None:
    model = loaded(checkpoint, quantization=[kind])
    assert heard(model, story).spoken.text
    assert len(spoken(model, "Is it red?"))


def test_a_checkpoint_that_names_no_languages_is_refused(tmp_path: Path) -> None:
    config = save_seamless(tmp_path)
    (tmp_path / "generation_config.json").unlink()
    with pytest.raises(BackendError, match="names no languages"):
        loaded((tmp_path, config))


# ------------------------------------------------------------ the whole program


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Of a program with two speech models, on a card that holds one."""
    data = tmp_path_factory.mktemp("data")
    save_voices(data)
    with served(build(read_settings(data=data, profile="voices", device="sim:400MB"))) as url:
        yield url


@pytest.fixture(scope="module")
def client(url: str) -> Iterator[openai.OpenAI]:
    with client_at(url) as client:
        yield client


def test_openai_clients_hear_with_both(
    client: openai.OpenAI, checkpoint: Checkpoint, examples: Path, story: Any
) -> None:
    file = examples / "speech-en.wav"
    told = client.audio.transcriptions.create(model="tiny-seamless", file=file, language="fr")
    assert told.text == written(checkpoint[0], story, "fra", torch.bfloat16)
    english = client.audio.translations.create(model="tiny-seamless", file=file)
    assert english.text == written(checkpoint[0], story, "eng", torch.bfloat16)
    other = client.audio.transcriptions.create(
        model="tiny-wav2vec2", file=file, response_format="verbose_json"
    )
    assert other.language == "fr"
    assert other.segments
    assert other.segments[0].start < other.segments[-1].end
    with pytest.raises(openai.BadRequestError, match="does not translate"):
        client.audio.translations.create(model="tiny-wav2vec2", file=file)
    with pytest.raises(openai.BadRequestError, match="does not know the language 'en'"):
        client.audio.transcriptions.create(model="tiny-wav2vec2", file=file, language="en")


def test_openai_clients_have_a_text_spoken(client: openai.OpenAI) -> None:
    made = client.audio.speech.create(
        model="tiny-seamless", input=TEXT, voice="3", response_format="wav"
    )
    assert made.response.headers["content-type"] == "audio/wav"
    with wave.open(io.BytesIO(made.content)) as file:
        assert (file.getframerate(), file.getnchannels(), file.getsampwidth()) == (24_000, 1, 2)
        assert len(file.readframes(file.getnframes())) > 2000
    french = client.audio.speech.create(
        model="tiny-seamless",
        input=TEXT,
        voice="3",
        response_format="wav",
        extra_body={"language": "fr", "text_language": "en"},
    )
    assert french.content != made.content


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"response_format": "midi"}, "'midi' is not made here; mp3, opus"),
        ({"voice": "xi"}, "has no voice xi; take one from 0 to 7"),
        ({"voice": "99"}, "has no voice 99; take one from 0 to 7"),
        ({"speed": 3}, "speed 3 is not one from 0.5 to 2"),
        ({"model": "tiny-wav2vec2"}, "does not speak. Models that do: tiny-seamless."),
        ({"input": ""}, "input: "),
        ({"input": "word" * 2000}, "input is 8,000 characters long"),
        ({"input": "..."}, "input has no word to speak"),
        ({"language": "zh"}, "does not know the language 'zh'"),
    ],
)
def test_what_cannot_be_spoken_is_refused_in_one_sentence(
    url: str, changes: dict[str, Any], sentence: str
) -> None:
    body = {"model": "tiny-seamless", "input": TEXT, **changes}
    reply = httpx.post(f"{url}/v1/audio/speech", json=body, timeout=60)
    assert reply.status_code == 400
    assert sentence in reply.json()["error"]["message"]


def test_an_unknown_model_does_not_speak(url: str) -> None:
    body = {"model": "tts-9", "input": TEXT}
    assert httpx.post(f"{url}/v1/audio/speech", json=body).status_code == 404


def test_a_stop_ends_the_speaking_between_sentences(model: Seamless) -> None:
    stop = threading.Event()
    stream = model.run(TTSRequest("Is it red? " * 20), stop)
    assert isinstance(next(stream), SentenceSpoken)
    stop.set()
    rest = list(stream)
    assert len(rest) < 38
    assert not [event for event in rest if isinstance(event, SpeechGenerated)]


def test_eviction_changes_neither_word_nor_voice(checkpoint: Checkpoint, story: Any) -> None:
    model = loaded(checkpoint)
    words, voice = heard(model, story), spoken(model, TEXT)
    leave_and_return(model)
    assert heard(model, story) == words
    assert np.array_equal(spoken(model, TEXT), voice)
