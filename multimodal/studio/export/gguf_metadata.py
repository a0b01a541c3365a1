"""The header of a GGUF model: what it is computed with, and its tokenizer.

Of a model that came as GGUF the header of its base is taken over. Otherwise it is made from
transformers' configuration and tokenizer, with the fields that the published converter writes
(ggml-org/llama.cpp, convert_hf_to_gguf.py) and llama.cpp reads (src/llama-model.cpp,
src/llama-vocab.cpp).
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from gguf import GGUFReader, GGUFValueType, GGUFWriter, LlamaFileType, RopeScalingType, TokenType
from gguf.constants import GGML_QUANT_VERSION, Keys

from multimodal.errors import JobError
from multimodal.studio.export.gguf_tensors import find_architecture
from multimodal.studio.export.source import Source

FILE_TYPES = {
    "f32": LlamaFileType.ALL_F32,
    "f16": LlamaFileType.MOSTLY_F16,
    "bf16": LlamaFileType.MOSTLY_BF16,
    "q8_0": LlamaFileType.MOSTLY_Q8_0,
    "q5_1": LlamaFileType.MOSTLY_Q5_1,
    "q5_0": LlamaFileType.MOSTLY_Q5_0,
    "q4_1": LlamaFileType.MOSTLY_Q4_1,
    "q4_0": LlamaFileType.MOSTLY_Q4_0,
}
WRITTEN_ANEW = {
    Keys.General.ARCHITECTURE,
    Keys.General.NAME,
    Keys.General.FILE_TYPE,
    Keys.General.QUANTIZATION_VERSION,
    Keys.Tokenizer.CHAT_TEMPLATE,
}
NOT_TAKEN_OVER = ("GGUF.", "split.", "quantize.")
"""What belongs to the container, and what told how the base was quantized."""
PLAIN_ROPE, SCALED_ROPE = ("default", "llama3"), ("linear", "yarn")
BYTE = re.compile(r"<0x[0-9A-F]{2}>")

_GPT2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
_LLAMA3 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
PRE_TOKENIZERS = {
    (_GPT2,): "gpt-2",
    ("digits", _GPT2): "smollm",
    (_LLAMA3,): "llama-bpe",
    (_LLAMA3.replace("{1,3}", ""),): "qwen2",
}
"""How a byte-level tokenizer cuts texts before it merges, to llama.cpp's name of it."""


def add_metadata(writer: GGUFWriter, source: Source, quantization: str) -> None:
    """Raises JobError for what has no place in a GGUF file."""
    writer.add_file_type(FILE_TYPES[quantization])
    writer.add_quantization_version(GGML_QUANT_VERSION)
    writer.add_name(source.card.title)
    if source.gguf is not None:
        _take_over(writer, GGUFReader(source.gguf))
    else:
        writer.add_type("model")
        writer.add_string(Keys.General.LICENSE, source.card.license)
        _add_shape(writer, source.config)
        _add_rope(writer, source.config)
        _add_tokenizer(writer, source)
    if isinstance(template := source.tokenizer.chat_template, str) and template:
        writer.add_chat_template(template)


def check_config(config: Any) -> None:
    """Raise JobError for a configuration that cannot be told in GGUF."""
    find_architecture(config.model_type)
    rope = getattr(config, "rope_parameters", None) or {}
    if (kind := rope.get("rope_type", "default")) not in PLAIN_ROPE + SCALED_ROPE:
        raise JobError(
            f"Positions that are scaled as '{kind}' cannot be written as GGUF here. Known: "
            f"{', '.join(PLAIN_ROPE + SCALED_ROPE)}. Export it as safetensors instead."
        )


def _take_over(writer: GGUFWriter, base: GGUFReader) -> None:
    for name, field in base.fields.items():
        if name in WRITTEN_ANEW or name.startswith(NOT_TAKEN_OVER):
            continue
        kind = field.types[0]
        inner = field.types[-1] if kind is GGUFValueType.ARRAY else None
        writer.add_key_value(name, field.contents(), kind, inner)


# ------------------------------------------------------------ what it is computed with


def _add_shape(writer: GGUFWriter, config: Any) -> None:
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_head_count(config.num_attention_heads)
    writer.add_vocab_size(config.vocab_size)
    if config.model_type == "gpt2":
        writer.add_feed_forward_length(config.n_inner or 4 * config.hidden_size)
        writer.add_layer_norm_eps(config.layer_norm_epsilon)
        return
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_key_length(head_size(config))
    writer.add_value_length(head_size(config))
    if config.model_type == "gemma2":
        writer.add_attn_logit_softcapping(config.attn_logit_softcapping)
        writer.add_final_logit_softcapping(config.final_logit_softcapping)
        writer.add_sliding_window(config.sliding_window)


def head_size(config: Any) -> int:
    """Values of a head."""
    told = getattr(config, "head_dim", None)
    return int(told or config.hidden_size // config.num_attention_heads)


def _add_rope(writer: GGUFWriter, config: Any) -> None:
    rope: Mapping[str, Any] | None = getattr(config, "rope_parameters", None)
    if rope is None:  # positions that were learned
        return
    share = rope.get("partial_rotary_factor", 1.0)
    writer.add_rope_dimension_count(int(head_size(config) * share))
    writer.add_rope_freq_base(rope["rope_theta"])
    kind = rope.get("rope_type", "default")
    if kind in SCALED_ROPE:
        writer.add_rope_scaling_type(RopeScalingType(kind))
        writer.add_rope_scaling_factor(rope["factor"])
        if original := rope.get("original_max_position_embeddings"):
            writer.add_rope_scaling_orig_ctx_len(original)


# ------------------------------------------------------------ the tokenizer


@dataclass(frozen=True, slots=True)
class _Token:
    text: str
    kind: TokenType


def _add_tokenizer(writer: GGUFWriter, source: Source) -> None:
    """Its merges and tokens are read from the `tokenizers` library itself, since a folder may hold
    only a part of its files."""
    tokenizer = source.tokenizer
    if not getattr(tokenizer, "is_fast", False):
        raise JobError("Its tokenizer is none of the `tokenizers` library, so GGUF cannot hold it.")
    data = json.loads(tokenizer.backend_tokenizer.to_str())
    if data["model"]["type"] != "BPE":
        raise JobError(
            f"Its tokenizer is of the kind {data['model']['type']}, and only BPE is written as "
            "GGUF here. Export it as safetensors instead."
        )
    merges = [_pair(it) for it in data["model"]["merges"]]
    tokens = list(_tokens(data, tokenizer, source.model.get_input_embeddings().weight.shape[0]))
    writer.add_token_list([token.text for token in tokens])
    writer.add_token_types([token.kind for token in tokens])
    if data["model"].get("byte_fallback"):
        writer.add_tokenizer_model("llama")
        writer.add_tokenizer_pre("default")
        writer.add_token_scores(_scores(tokens, merges))
        writer.add_add_space_prefix(_has_space_prefix(data, bool(tokenizer.chat_template)))
    else:
        writer.add_tokenizer_model("gpt2")
        writer.add_tokenizer_pre(_pre_tokenizer(data))
        writer.add_token_merges([" ".join(pair) for pair in merges])
    _add_special_tokens(writer, source)


def _pair(merge: Any) -> tuple[str, str]:
    left, right = merge.split(" ", 1) if isinstance(merge, str) else merge
    return left, right


def _tokens(data: dict[str, Any], tokenizer: Any, rows: int) -> Iterator[_Token]:
    """One for each row of the embedding. Raises JobError where the tokenizer knows more."""
    added = {it["id"]: it for it in data["added_tokens"]}
    texts = {number: text for text, number in tokenizer.get_vocab().items()}
    if max(texts) >= rows:
        raise JobError(
            f"Its tokenizer knows {max(texts) + 1:,} tokens and the model has embeddings for "
            f"{rows:,}; GGUF has no place for the others."
        )
    unknown = data["model"].get("unk_token")
    is_sentencepiece = bool(data["model"].get("byte_fallback"))
    for number in range(rows):
        text = texts.get(number)
        if text is None:
            yield _Token(f"[PAD{number}]", TokenType.UNUSED)
        elif text == unknown and is_sentencepiece:
            yield _Token(text, TokenType.UNKNOWN)
        elif number in added:
            is_special = added[number]["special"]
            yield _Token(text, TokenType.CONTROL if is_special else TokenType.USER_DEFINED)
        elif is_sentencepiece and BYTE.fullmatch(text):
            yield _Token(text, TokenType.BYTE)
        else:
            yield _Token(text, TokenType.NORMAL)


def _scores(tokens: list[_Token], merges: list[tuple[str, str]]) -> list[float]:
    """llama.cpp joins the pair whose whole has the highest score; `tokenizers` the one whose merge
    comes first. So a score is how late its first merge comes, less than 0; tokens that are no merge
    have that of a letter, below all."""
    rank: dict[str, int] = {}
    for place, (left, right) in enumerate(merges):
        rank.setdefault(left + right, place)
    lowest = float(-len(merges) - 1)
    return [float(-rank[it.text]) if it.text in rank else lowest for it in tokens]


def _has_space_prefix(data: dict[str, Any], has_template: bool) -> bool:
    """Whether a space is put before a text and behind each control token, which is one field in
    GGUF. A tokenizer that puts one only before a text puts none into a conversation, which begins
    with a control token; so for a model that talks, there is none."""
    schemes = ("always",) if has_template else ("always", "first")
    steps = [*_steps(data.get("normalizer"), "normalizers")]
    steps += _steps(data.get("pre_tokenizer"), "pretokenizers")
    return any(
        step["type"] == "Prepend"
        or (step["type"] == "Metaspace" and step.get("prepend_scheme", "always") in schemes)
        for step in steps
    )


def _pre_tokenizer(data: dict[str, Any]) -> str:
    """llama.cpp's name of it. Raises JobError where it is not known."""
    cuts: list[str] = []
    for step in _steps(data.get("pre_tokenizer"), "pretokenizers"):
        if step["type"] == "Digits" and step.get("individual_digits"):
            cuts.append("digits")
        elif step["type"] == "Split":
            cuts.append(step["pattern"].get("Regex", "?"))
        elif step["type"] == "ByteLevel":
            cuts += [_GPT2] if step.get("use_regex", True) else []
        else:
            cuts.append(step["type"])
    if (found := PRE_TOKENIZERS.get(tuple(cuts))) is None:
        raise JobError(
            "Its tokenizer cuts texts in a way that has no name in GGUF here; known are those of "
            f"{', '.join(PRE_TOKENIZERS.values())}. Export it as safetensors instead."
        )
    return found


def _steps(step: dict[str, Any] | None, inner: str) -> list[dict[str, Any]]:
    if step is None:
        return []
    return list(step[inner]) if step["type"] == "Sequence" else [step]


def _add_special_tokens(writer: GGUFWriter, source: Source) -> None:
    """Whether a text begins and ends with one is asked of the tokenizer, which may say so in
    several places."""
    tokenizer, ends = source.tokenizer, source.end_ids
    for number, add in (
        (tokenizer.bos_token_id, writer.add_bos_token_id),
        (tokenizer.unk_token_id, writer.add_unk_token_id),
        (tokenizer.pad_token_id, writer.add_pad_token_id),
        (ends[0] if ends else None, writer.add_eos_token_id),
        (ends[1] if len(ends) > 1 else None, writer.add_eot_token_id),
        (ends[2] if len(ends) > 2 else None, writer.add_eom_token_id),
    ):
        if number is not None:
            add(number)
    ids = tokenizer("a")["input_ids"]
    writer.add_add_bos_token(bool(ids) and ids[0] == tokenizer.bos_token_id)
    writer.add_add_eos_token(len(ids) > 1 and ids[-1] == tokenizer.eos_token_id)
