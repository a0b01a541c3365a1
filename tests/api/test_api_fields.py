"""Every field of OpenAI's requests is judged, and what is not honoured is refused in a sentence."""

from __future__ import annotations

import subprocess
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any, get_type_hints

import numpy as np
import openai
import pytest
from fakes import FakeSource
from openai.types import chat, image_generate_params
from openai.types.audio import (
    speech_create_params,
    transcription_create_params,
    translation_create_params,
)
from openai.types.chat import completion_create_params
from text_requests import turns_of

from multimodal.api.chat import fingerprint
from multimodal.api.fields import (
    CHAT,
    IMAGES,
    MESSAGE,
    PICTURE,
    SOUND,
    SPEECH,
    TRANSCRIPTIONS,
    TRANSLATIONS,
    RequestFields,
)
from multimodal.catalog.cards import Catalog
from multimodal.events import DecodingStatistics, Segment
from multimodal.media.audio import wav
from multimodal.requests import TextRequest, TranscriptionRequest

QUESTION: Any = [{"role": "user", "content": "What is photosynthesis?"}]
BODIES = (
    (CHAT, completion_create_params, "CompletionCreateParams"),
    (TRANSCRIPTIONS, transcription_create_params, "TranscriptionCreateParams"),
    (TRANSLATIONS, translation_create_params, "TranslationCreateParams"),
    (SPEECH, speech_create_params, "SpeechCreateParams"),
    (IMAGES, image_generate_params, "ImageGenerateParams"),
)


@pytest.mark.parametrize(("fields", "module", "name"), BODIES)
def test_every_field_of_the_client_is_judged(
    fields: RequestFields, module: ModuleType, name: str
) -> None:
    params = [getattr(module, found) for found in dir(module) if found.startswith(name)]
    offered = {field for each in params if isinstance(each, type) for field in get_type_hints(each)}
    assert len(offered) > 4
    assert offered <= fields.known, "what do these change? judge them in api/fields.py"


PARTS = (
    (
        MESSAGE,
        (
            chat.ChatCompletionSystemMessageParam,
            chat.ChatCompletionDeveloperMessageParam,
            chat.ChatCompletionUserMessageParam,
            chat.ChatCompletionAssistantMessageParam,
            chat.ChatCompletionToolMessageParam,
            chat.ChatCompletionFunctionMessageParam,
        ),
    ),
    (PICTURE, (chat.chat_completion_content_part_image_param.ImageURL,)),
    (SOUND, (chat.chat_completion_content_part_input_audio_param.InputAudio,)),
)


@pytest.mark.parametrize(("fields", "kinds"), PARTS)
def test_every_field_inside_a_message_is_judged(
    fields: RequestFields, kinds: tuple[type, ...]
) -> None:
    offered = {field for kind in kinds for field in get_type_hints(kind)}
    assert len(offered) > 1
    assert offered <= fields.known, "what do these change? judge them in api/fields.py"


@pytest.mark.parametrize("fields", [*(body[0] for body in BODIES), *(part[0] for part in PARTS)])
def test_no_field_is_judged_twice(fields: RequestFields) -> None:
    assert not fields.honoured & fields.harmless
    assert not (fields.honoured | fields.harmless) & set(fields.refused)


def ask(client: openai.OpenAI, **more: Any) -> Any:
    asked: Any = {"model": "auto", "messages": QUESTION, **more}
    return client.chat.completions.create(**asked)


TOOL = {"type": "function", "function": {"name": "weather", "parameters": {}}}
REFUSED: dict[str, Any] = {
    "n": 3,
    "tools": [TOOL],
    "tool_choice": "required",
    "functions": [{"name": "weather", "parameters": {}}],
    "function_call": {"name": "weather"},
    "response_format": {"type": "json_object"},
    "logprobs": True,
    "top_logprobs": 2,
    "logit_bias": {"5": 100},
    "frequency_penalty": 0.5,
    "presence_penalty": -0.5,
    "modalities": ["text", "audio"],
    "audio": {"voice": "alloy", "format": "wav"},
    "verbosity": "low",
    "web_search_options": {},
    "moderation": {"model": "omni-moderation-latest"},
}


@pytest.mark.parametrize("field", REFUSED)
def test_a_field_that_would_change_the_answer_is_refused(
    fake: openai.OpenAI, source: FakeSource, field: str
) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        ask(fake, **{field: REFUSED[field]})
    assert caught.value.message.count(f"{field}: ") == 1
    assert (caught.value.param, caught.value.code) == (field, "unsupported_parameter")
    assert not source.requests


def test_every_refused_field_of_a_chat_was_tried() -> None:
    assert set(CHAT.refused) == set(REFUSED) | set(OF_OTHER_SERVERS)


OF_OTHER_SERVERS: dict[str, Any] = {
    "top_k": 40,
    "min_p": 0.1,
    "typical_p": 0.9,
    "mirostat": 2,
    "grammar": "root ::= [0-9]+",
    "json_schema": {"type": "object"},
    "guided_json": {"type": "object"},
    "guided_regex": "[0-9]+",
    "guided_choice": ["yes", "no"],
    "guided_grammar": "root ::= [0-9]+",
    "structured_outputs": {"choice": ["yes", "no"]},
    "n_predict": 8,
    "min_tokens": 8,
    "ignore_eos": True,
    "stop_token_ids": [2],
    "bad_words": ["no"],
    "best_of": 2,
    "use_beam_search": True,
    "length_penalty": 0.5,
    "chat_template": "{{ messages }}",
    "continue_final_message": True,
}


@pytest.mark.parametrize("field", OF_OTHER_SERVERS)
def test_a_field_of_other_servers_that_would_change_the_answer_is_refused(
    fake: openai.OpenAI, source: FakeSource, field: str
) -> None:
    with pytest.raises(openai.BadRequestError, match=f"^.*{field}: "):
        ask(fake, extra_body={field: OF_OTHER_SERVERS[field]})
    assert not source.requests


def test_the_audio_of_an_earlier_answer_is_refused(fake: openai.OpenAI) -> None:
    answer = {"role": "assistant", "audio": {"id": "audio_1"}}
    with pytest.raises(openai.BadRequestError, match="audio: no answer is kept as sound"):
        ask(fake, messages=[*QUESTION, answer, *QUESTION])


def test_a_schema_is_refused_and_not_answered_in_prose(fake: openai.OpenAI) -> None:
    schema: Any = {"type": "json_schema", "json_schema": {"name": "x", "schema": {}}}
    with pytest.raises(openai.BadRequestError, match="ask for the form in words"):
        ask(fake, response_format=schema)


NEUTRAL: dict[str, Any] = {
    "n": 1,
    "tools": [],
    "tool_choice": "auto",
    "functions": [],
    "function_call": "none",
    "response_format": {"type": "text"},
    "logprobs": False,
    "top_logprobs": 0,
    "logit_bias": {},
    "frequency_penalty": 0,
    "presence_penalty": 0.0,
    "modalities": ["text"],
    "audio": None,
    "parallel_tool_calls": True,
    "prediction": {"type": "content", "content": "Plants"},
    "user": "ann",
    "store": False,
    "metadata": {"a": "b"},
    "service_tier": "auto",
    "verbosity": "medium",
    "top_k": -1,
}


def test_values_that_ask_for_nothing_pass(fake: openai.OpenAI, source: FakeSource) -> None:
    for given in (NEUTRAL, dict.fromkeys(CHAT.refused), {"x_unknown": 3}):
        reply = ask(fake, extra_body=given)
        assert reply.choices[0].message.content == "What is photosynthesis? "
    assert len(source.requests) == 3


@pytest.mark.parametrize(
    ("seed", "expected"),
    [(7, 7), (2**31, 0), (2**31 + 5, 5), (2**63 - 1, 2**31 - 1), (-2, 2**31 - 2), (-1, None)],
)
def test_every_seed_of_64_bits_is_taken(
    fake: openai.OpenAI, source: FakeSource, seed: int, expected: int | None
) -> None:
    ask(fake, seed=seed)
    assert source.requests[0].sampling.seed == expected


def test_a_seed_of_more_bits_is_refused(fake: openai.OpenAI) -> None:
    with pytest.raises(openai.BadRequestError, match="seed"):
        ask(fake, seed=2**64)


def test_of_no_share_of_the_tokens_only_the_first_is_left(
    fake: openai.OpenAI, source: FakeSource
) -> None:
    ask(fake, top_p=0, temperature=1, extra_body={"repetition_penalty": 1.2})
    sampling = source.requests[0].sampling
    assert (sampling.temperature, sampling.top_p, sampling.repeat_penalty) == (0, None, 1.2)


def test_answers_say_what_they_depend_on(fake: openai.OpenAI, catalog: Catalog) -> None:
    card = catalog.card("smollm2-135m-instruct")
    whole = ask(fake).system_fingerprint
    streamed = {chunk.system_fingerprint for chunk in ask(fake, stream=True)}
    assert streamed == {whole} == {fingerprint(card)}
    for change in ({"quantization": ("q8_0",)}, {"concurrency": 99}, {"engine": {"n_batch": 8}}):
        assert fingerprint(card.model_copy(update=change)) != whole


def test_one_seed_gives_one_text_through_the_whole_program(client: openai.OpenAI) -> None:
    """One after another, and three at once beside another question."""

    def text(question: str) -> str:
        asked = [{"role": "user", "content": question}]
        sampled = {"seed": 7, "temperature": 0.9, "max_tokens": 24}
        reply = ask(client, model="smollm2-135m-instruct", messages=asked, **sampled)
        return str(reply.choices[0].message.content or "")

    ours, other = "Tell me a story about a lighthouse.", "Who are you? " * 20
    alone = text(ours)
    with ThreadPoolExecutor(4) as people:
        *told, _ = people.map(text, [ours, ours, ours, other])
    assert told == [alone] * 3


def test_a_history_with_a_tool_in_it_is_read_as_text(
    fake: openai.OpenAI, source: FakeSource
) -> None:
    call = {
        "id": "1",
        "type": "function",
        "function": {"name": "weather", "arguments": '{"c":"Rome"}'},
    }
    history = [
        {"role": "user", "content": "Is it warm?"},
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "1", "content": "31 degrees"},
    ]
    ask(fake, messages=history)
    ask(fake, messages=[*history, {"role": "assistant", "content": "Yes."}, *QUESTION])
    first, second = source.requests
    assert turns_of(first) == (
        ("user", "Is it warm?"),
        ("assistant", 'Call of weather: {"c":"Rome"}'),
        ("user", "Result of weather:\n31 degrees"),
    )
    assert turns_of(second) == (
        *turns_of(first),
        ("assistant", "Yes."),
        ("user", QUESTION[0]["content"]),
    )


def test_a_greeting_of_the_assistant_is_kept(fake: openai.OpenAI, source: FakeSource) -> None:
    ask(fake, messages=[{"role": "assistant", "content": "I am Ada. Ask me."}, *QUESTION])
    (asked,) = source.requests
    assert isinstance(asked, TextRequest)
    assert turns_of(asked) == (
        ("user", "Hello."),
        ("assistant", "I am Ada. Ask me."),
        ("user", "What is photosynthesis?"),
    )


def test_a_greeting_of_the_assistant_reaches_the_real_model(client: openai.OpenAI) -> None:
    greeting = {"role": "assistant", "content": "Hello! My name is Bartholomew."}
    asked = [{"role": "user", "content": "What is your name?"}]
    alone, greeted = (
        ask(client, model="smollm2-135m-instruct", messages=said, temperature=0, max_tokens=40)
        for said in (asked, [greeting, *asked])
    )
    assert greeted.usage.prompt_tokens > alone.usage.prompt_tokens + 8
    assert "Bartholomew" in (greeted.choices[0].message.content or "")


# ------------------------------------------------------------ models and errors


def test_every_listed_model_can_be_looked_up(fake: openai.OpenAI) -> None:
    listed = list(fake.models.list())
    assert [fake.models.retrieve(model.id) for model in listed] == listed
    assert fake.models.retrieve("auto").owned_by == "router"
    with pytest.raises(openai.NotFoundError) as caught:
        fake.models.retrieve("gpt-5")
    assert caught.value.code == "model_not_found"


def test_clients_can_tell_errors_apart(client: openai.OpenAI) -> None:
    with pytest.raises(openai.NotFoundError) as unknown:
        ask(client, model="gpt-5")
    with pytest.raises(openai.BadRequestError) as long:
        ask(client, messages=[{"role": "user", "content": "word " * 6000}])
    assert unknown.value.code == "model_not_found"
    assert long.value.code == "context_length_exceeded"


# ------------------------------------------------------------ recordings


@pytest.fixture
def recording() -> bytes:
    noise = np.random.default_rng(0).uniform(-0.03, 0.03, 16_000)
    return wav(noise.astype(np.float32))


def hear(client: openai.OpenAI, recording: bytes, name: str = "a.wav", **more: Any) -> Any:
    asked = {"model": "whisper-1", "file": (name, recording), **more}
    return client.audio.transcriptions.create(**asked)


@pytest.mark.parametrize(
    ("given", "expected"),
    [("EN", "en"), ("en-US", "en"), ("zh_TW", "zh"), ("nb-NO", "no"), ("auto", None), ("", None)],
)
def test_languages_are_taken_as_clients_write_them(
    fake: openai.OpenAI, source: FakeSource, recording: bytes, given: str, expected: str | None
) -> None:
    assert hear(fake, recording, language=given).text == "hello there"
    assert source.requests[0].language == expected


def test_a_prompt_and_a_temperature_reach_the_engine(
    fake: openai.OpenAI, source: FakeSource, recording: bytes
) -> None:
    hear(fake, recording, prompt="Kérastase", temperature=0.3)
    hear(fake, recording, keywords=["Ann", "Bo"], languages=["fr"])
    first, second = source.requests
    assert isinstance(first, TranscriptionRequest)
    assert (first.prompt, first.temperature, first.language) == ("Kérastase", 0.3, None)
    assert (second.prompt, second.temperature, second.language) == ("Ann, Bo", None, "fr")


@pytest.mark.parametrize(
    ("form", "sentence"),
    [
        ({"temperature": 3}, "temperature '3' is not a number from 0 to 1"),
        ({"language": "klingon"}, "language 'klingon' is not a code"),
        ({"languages": ["en", "fr"]}, "en, fr are more than one"),
        ({"include": ["logprobs"]}, "include: probabilities"),
        ({"chunking_strategy": {"type": "server_vad"}}, "chunking_strategy: recordings are always"),
        ({"known_speaker_names": ["Ann"]}, "known_speaker_names: speakers"),
        ({"timestamp_granularities": ["word"]}, "'word' is not offered; segment is"),
        ({"stream": True, "response_format": "srt"}, "stream: the events carry text, not srt"),
    ],
)
def test_what_a_recording_cannot_be_asked_for_is_refused(
    fake: openai.OpenAI, source: FakeSource, recording: bytes, form: dict[str, Any], sentence: str
) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        hear(fake, recording, **form)
    assert sentence in caught.value.message
    assert not source.requests


def test_a_strategy_that_is_the_usual_one_passes(fake: openai.OpenAI, recording: bytes) -> None:
    assert hear(fake, recording, chunking_strategy="auto", stream=False).text == "hello there"


def test_a_transcription_is_streamed_as_openai_does(
    fake: openai.OpenAI, source: FakeSource, recording: bytes
) -> None:
    source.segments = (Segment(0, 0.5, "hello"), Segment(0.5, 1, "there"))
    happened = list(hear(fake, recording, stream=True))
    assert [event.type for event in happened] == ["transcript.text.delta"] * 2 + [
        "transcript.text.done"
    ]
    assert "".join(event.delta for event in happened[:-1]) == happened[-1].text == "hello there"


def test_a_failure_while_streaming_is_told(
    fake: openai.OpenAI, source: FakeSource, recording: bytes
) -> None:
    source.full = 99
    with pytest.raises(openai.APIError, match="full"):
        list(hear(fake, recording, stream=True))


def test_how_sure_the_engine_was_is_told(
    fake: openai.OpenAI, source: FakeSource, recording: bytes
) -> None:
    told = DecodingStatistics(-0.25, 0.01, 1.2, 0.0, (50364, 7751), 300)
    said = Segment(0.0, 1.0, "hello there", "en", told)
    source.segments = (said, replace(said, statistics=None))
    heard = hear(fake, recording, response_format="verbose_json")
    first, second = heard.segments
    assert (first.avg_logprob, first.no_speech_prob, first.compression_ratio) == (-0.25, 0.01, 1.2)
    assert (first.temperature, first.tokens, first.seek) == (0.0, [50364, 7751], 300)
    assert first.language == "en"
    assert "avg_logprob" not in second.model_dump(exclude_unset=True), "this engine does not tell"


@pytest.mark.parametrize(
    "kind",
    [
        *("mpeg", "m4a", "webm"),
        *(pytest.param(it, marks=pytest.mark.thorough) for it in ("mpga", "mp3", "ogg", "flac")),
    ],
)
def test_every_kind_of_file_openai_names_is_read(
    client: openai.OpenAI, examples: Path, tmp_path: Path, kind: str
) -> None:
    made = tmp_path / f"speech.{kind}"
    form = {"mpga": ["-f", "mp3"], "mpeg": ["-f", "mpeg", "-c:a", "mp2"]}.get(kind, [])
    command = ["ffmpeg", "-v", "error", "-i", str(examples / "speech-en.wav"), *form, str(made)]
    subprocess.run(command, check=True, timeout=60)
    assert "children" in hear(client, made.read_bytes(), made.name).text.lower()
