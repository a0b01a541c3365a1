"""Bytes computed from a card, against published figures and against real modules on the CPU."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from gguf import GGUFReader
from small_shapes import CAUSAL, SEEING, SMALL, TEXT, VISION, card, hf, one
from tiny_hearing import WAV2VEC2
from torch import nn

from multimodal.backends.hf.forward_passes import forward_passes as chat
from multimodal.backends.speech.forward_passes import seamless_passes, wav2vec2_passes
from multimodal.catalog.architectures import GgufArchitecture, ModelPart, ModulesArchitecture
from multimodal.catalog.cards import Catalog
from multimodal.errors import CardError
from multimodal.memory.devices.storages import storage_bytes
from multimodal.memory.estimate.activation import peak_bytes, trace_peak_bytes
from multimodal.memory.estimate.footprint import footprint, kv_bytes
from multimodal.memory.estimate.modules import build_meta_module, tensors, text_config
from multimodal.memory.estimate.quantization import TORCH

# Parameters as their authors' model pages and config.json files on the Hugging Face hub give them.
PUBLISHED_CARDS = {
    "llama-2-7b-chat": 6_738_415_616,
    "llama-2-13b-chat": 13_015_864_320,
    "llama-3-8b-instruct": 8_030_261_248,
    "mistral-7b-instruct": 7_248_023_552,
    "phi-2": 2_779_683_840,
    "phi-3-mini": 3_821_079_552,
    "gemma-2b-it": 2_506_172_416,
    "gemma-7b-it": 8_537_680_896,
    "gpt2": 124_439_808,
    "llava-1.5-7b": 7_063_427_072,
    "llava-next-mistral-7b": 7_566_747_648,
    "smolvlm-256m": 256_484_928,
    "smolvlm-500m": 507_482_304,
    "wav2vec2-base-960h": 94_396_320,
    # U-Net, decoder and encoder, and the text encoders.
    "stable-diffusion-1.5": 859_520_964 + 83_653_863 + 123_060_480,
    "stable-diffusion-xl": 2_567_463_684 + 83_653_863 + 123_060_480 + 694_659_840,
}


@pytest.mark.parametrize("name", PUBLISHED_CARDS)
def test_every_card_has_the_parameters_its_authors_publish(catalog: Catalog, name: str) -> None:
    shape = catalog.card(name).architecture
    assert isinstance(shape, ModulesArchitecture)
    found = sum(math.prod(t.shape) for t in tensors(shape) if t.parameter)
    assert found == PUBLISHED_CARDS[name]


# Millions of parameters that the hub's pages of these models give.
HEARING = {
    "whisper-tiny": 37.8,
    "whisper-base-pt": 72.6,
    "whisper-small": 242,
    "whisper-medium": 764,
    "whisper-large-v3": 1543.5,
    "whisper-large-v3-turbo": 809,
    "wav2vec2-base-960h": 94.4,
    "wav2vec2-large-960h": 315.5,
    "wav2vec2-large-960h-lv60-self": 315.5,
    "seamless-m4t-v2-large": 2309,
}


@pytest.mark.parametrize("name", HEARING)
def test_shipped_speech_cards_have_the_published_sizes(catalog: Any, name: str) -> None:
    """Whisper's fixed positions are counted there too."""
    found = sum(
        math.prod(t.shape)
        for t in tensors(catalog.card(name).architecture)
        if t.parameter or t.name.endswith("encoder.positional_embedding")
    )
    assert found / 1e6 == pytest.approx(HEARING[name], rel=0.002)


def test_a_speech_models_peak_holds_half_a_minute_of_speech(catalog: Any) -> None:
    part = catalog.card("seamless-m4t-v2-large").architecture.parts["model"]
    module: Any = build_meta_module(part, shallow=True)
    distances = 1500 * 1500 * 64 * 2  # of every 20 ms to every other, for one head
    assert peak_bytes(seamless_passes, module, 256, None) > distances


# Sizes in GB of the files on the hub's pages of these models in GGUF.
GGUF_FILES = [
    (hf(CAUSAL, model_type="llama"), "q4_0", 3.83),
    (hf(CAUSAL, model_type="llama"), "q4_k_m", 4.08),
    (hf(CAUSAL, model_type="llama"), "q5_k_m", 4.78),
    (hf(CAUSAL, model_type="llama"), "q8_0", 7.16),
    (hf(CAUSAL, model_type="mistral"), "q4_k_m", 4.37),
    (hf(CAUSAL, model_type="mistral"), "q5_k_m", 5.13),
]


@pytest.mark.parametrize(("part", "kind", "published"), GGUF_FILES)
def test_gguf_files_have_the_size_that_is_published(
    part: ModelPart, kind: str, published: float
) -> None:
    shape = GgufArchitecture(kind="gguf", config=part.config)
    assert footprint(card(shape, kind)).weights / 1e9 == pytest.approx(published, rel=0.01)


def test_a_real_gguf_file_has_exactly_the_bytes_computed(catalog: Any, weights_of: Any) -> None:
    reader = GGUFReader(weights_of("smollm2-135m-instruct") / "model.gguf")
    config = {
        "model_type": "llama",
        "vocab_size": 49152,
        "hidden_size": 576,
        "intermediate_size": 1536,
        "num_hidden_layers": 30,
        "num_attention_heads": 9,
        "num_key_value_heads": 3,
        "tie_word_embeddings": True,
    }
    shape = GgufArchitecture(kind="gguf", config=config)
    assert footprint(card(shape, "q4_1")).weights == sum(int(t.n_bytes) for t in reader.tensors)


# ------------------------------------------------------------ real modules, small


QUANTIZED = SMALL | {
    "wav2vec2": hf("AutoModelForCTC", **WAV2VEC2),
    "blip-2": hf(
        SEEING,
        "query_tokens",
        "qformer",
        model_type="blip-2",
        num_query_tokens=4,
        vision_config=VISION | {"model_type": "blip_2_vision_model"},
        qformer_config={
            "hidden_size": 64,
            "intermediate_size": 128,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "encoder_hidden_size": 64,
            "vocab_size": 64,
        },
        text_config={
            "model_type": "opt",
            "vocab_size": 512,
            "hidden_size": 192,
            "ffn_dim": 320,
            "num_hidden_layers": 2,
            "num_attention_heads": 6,
            "word_embed_proj_dim": 192,
            "max_position_embeddings": 512,
        },
    ),
    "whisper": hf(
        "AutoModelForSpeechSeq2Seq",
        model_type="whisper",
        d_model=64,
        encoder_layers=2,
        decoder_layers=2,
        encoder_attention_heads=4,
        decoder_attention_heads=4,
        encoder_ffn_dim=128,
        decoder_ffn_dim=128,
        vocab_size=256,
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=2,
        decoder_start_token_id=3,
    ),
}


@pytest.fixture(scope="module", params=QUANTIZED)
def checkpoint(request: pytest.FixtureRequest, tmp_path_factory: Any) -> tuple[str, Path]:
    """A small model with random weights, saved as a hub repository would hold it."""
    folder = tmp_path_factory.mktemp("checkpoint")
    part = QUANTIZED[request.param]
    config = transformers.AutoConfig.for_model(**part.config)
    getattr(transformers, part.model).from_config(config).to(torch.bfloat16).save_pretrained(folder)
    return request.param, folder


def loaded(name: str, folder: Path, kind: str) -> nn.Module:
    cls: Any = getattr(transformers, QUANTIZED[name].model)
    dtypes = {"fp16": torch.float16, "fp32": torch.float32}
    if kind in {"fp16", "bf16", "fp32"}:
        model: nn.Module = cls.from_pretrained(folder, dtype=dtypes.get(kind, torch.bfloat16))
        return model
    config = transformers.BitsAndBytesConfig(
        load_in_8bit=kind == "int8",
        load_in_4bit=kind != "int8",
        bnb_4bit_quant_type=kind.partition("-")[0],
        bnb_4bit_use_double_quant=kind.endswith("-double"),
        bnb_4bit_compute_dtype=torch.bfloat16,
    )
    quantized: nn.Module = cls.from_pretrained(
        folder, dtype=torch.bfloat16, quantization_config=config, device_map={"": "cpu"}
    )
    return quantized


@pytest.mark.parametrize("kind", TORCH)
def test_the_estimate_is_what_a_loaded_model_holds(checkpoint: tuple[str, Path], kind: str) -> None:
    name, folder = checkpoint
    model = loaded(name, folder, kind)
    family = "wav2vec2" if name == "wav2vec2" else "causal_lm"
    expected = footprint(card(one(QUANTIZED[name]), kind, family=family)).weights
    assert expected == pytest.approx(storage_bytes(model), rel=0.02)
    if kind not in {"fp16", "bf16", "fp32"}:
        held = sum(p.numel() * p.element_size() for p in model.parameters())
        assert storage_bytes(model) > held, "the quantization state is counted"


@pytest.mark.parametrize("name", SMALL)
def test_the_cache_is_as_large_as_computed(name: str) -> None:
    part = SMALL[name]
    config = transformers.AutoConfig.for_model(**part.config)
    model = getattr(transformers, part.model).from_config(config).to(torch.bfloat16)
    with torch.no_grad():
        cache = model(input_ids=torch.zeros((1, 50), dtype=torch.long), use_cache=True)[
            "past_key_values"
        ]
    held = sum(layer.keys.nbytes + layer.values.nbytes for layer in cache.layers)
    assert kv_bytes(text_config(part), 50) == held


@pytest.mark.parametrize("name", SMALL)
def test_a_model_of_two_layers_has_the_peak_of_the_whole(name: str) -> None:
    shallow, whole = (build_meta_module(SMALL[name], shallow) for shallow in (True, False))
    assert peak_bytes(chat, shallow, 300, None) == peak_bytes(chat, whole, 300, None)


@pytest.mark.parametrize("name", sorted(QUANTIZED.keys() - {"whisper"}))
def test_every_family_has_a_peak(name: str) -> None:
    passes = wav2vec2_passes if name == "wav2vec2" else chat
    assert peak_bytes(passes, build_meta_module(QUANTIZED[name], shallow=True), 64, None) > 10_000


def test_the_peak_on_the_meta_device_is_the_peak_on_a_real_one() -> None:
    layer = nn.Sequential(nn.Linear(64, 1024), nn.GELU(), nn.Linear(1024, 64))
    real, meta = torch.randn(32, 64), torch.empty(32, 64, device="meta")
    expected = 32 * 1024 * 4 * 2  # the wide layer's input and output to GELU
    assert trace_peak_bytes(lambda: layer(real)) == expected
    layer.to("meta")
    assert trace_peak_bytes(lambda: layer(meta)) == expected


def test_a_longer_context_takes_more_cache_and_a_sliding_window_bounds_it() -> None:
    full = card(one(SMALL["llama"]), "bf16", tokens=None)
    assert footprint(full, None, 512).kv_cache == 2 * footprint(full, None, 256).kv_cache
    sliding = text_config(hf(CAUSAL, model_type="mistral", **TEXT, sliding_window=128))
    assert kv_bytes(sliding, 512) == kv_bytes(sliding, 128)


def test_cards_say_what_transformers_keeps_in_32_bits(catalog: Catalog) -> None:
    """A class tells that to transformers alone, so a card must repeat it."""
    stated = 0
    for found in catalog.cards:
        shape = found.architecture
        for part in shape.parts.values() if isinstance(shape, ModulesArchitecture) else ():
            if not part.quantized:
                continue
            module = build_meta_module(part)
            names = [name for name, _ in (*module.named_parameters(), *module.named_buffers())]
            told = getattr(module, "_keep_in_fp32_modules", None) or ()
            kept = {one for one in told if any(one in name.split(".") for name in names)}
            assert set(part.keeps_fp32) == kept, found.name
            stated += bool(kept)
    assert stated == 2


def test_a_measured_card_needs_no_torch_and_owns_its_buffers(catalog: Any) -> None:
    size = footprint(catalog.card("smollm2-135m-instruct"))
    assert (size.resident, size.workspace) == (size.total, 0)


@pytest.mark.parametrize(
    ("part", "kinds", "sentence"),
    [
        (SMALL["llama"], ("q4_0",), "no quantization 'q4_0'"),
        (hf(CAUSAL, model_type="llamma"), ("nf4",), "Compare its"),
        (hf("os", model_type="llama"), ("nf4",), "cannot build a os"),
        (hf("Trainer"), ("nf4",), "no model of transformers"),
        (ModelPart(library="torch", model="Module.cuda"), ("nf4",), "cannot build"),
        (
            ModelPart(library="whisper", model="Whisper", config={"n_mels": 3}),
            ("fp16",),
            "cannot build",
        ),
    ],
)
def test_a_card_that_cannot_be_built_is_told(
    part: ModelPart, kinds: tuple[str, ...], sentence: str
) -> None:
    with pytest.raises(CardError, match=sentence):
        footprint(card(one(part), *kinds))


@pytest.mark.parametrize(
    ("family", "sentence"),
    [
        ("unheard_of", "tiny: nothing is known of what an engine of the family 'unheard_of'"),
        ("piper", 'write kind = "measured" under'),
        ("diffusion", "tiny: an engine of the family 'diffusion' runs none of the parts"),
    ],
)
def test_a_turn_of_which_nothing_can_be_counted_is_never_0_bytes(
    family: str, sentence: str
) -> None:
    with pytest.raises(CardError, match=sentence):
        footprint(card(one(SMALL["llama"]), "bf16", family=family))
