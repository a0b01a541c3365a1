"""Checkpoints of transformers written as llama.cpp reads them: a language model and a projector,
each a GGUF file of 32 bits."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from gguf import GGUFWriter, TokenType
from tiny_seeing import SIDE, save_llava, save_smolvlm_of_tiles

# llama.cpp puts the pictures' signs into the content; a new line behind them is the card's.
TALK = (
    "{% for m in messages %}{{ m['role'] | upper }}: {{ m['content'] }} {% endfor %}"
    "{% if add_generation_prompt %}ASSISTANT:{% endif %}"
)
LANGUAGE_FILE, PROJECTOR_FILE = "tiny-f32.gguf", "mmproj-tiny-f32.gguf"
CLIP_MEAN, CLIP_STD = [0.48145466, 0.4578275, 0.40821073], [0.26862954, 0.26130258, 0.27577711]
LAYER = {
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
}
LANGUAGE_LAYER = {
    "attn_output": "self_attn.o_proj",
    "attn_norm": "input_layernorm",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
} | LAYER
VISION_LAYER = {
    "attn_out": "self_attn.out_proj",
    "ln1": "layer_norm1",
    "ln2": "layer_norm2",
    "ffn_up": "mlp.fc1",
    "ffn_down": "mlp.fc2",
} | LAYER

Weights = dict[str, Any]


def save_gguf(checkpoint: Path, folder: Path) -> None:
    """Write the model that `checkpoint` holds into `folder`, as two files."""
    folder.mkdir(parents=True, exist_ok=True)
    loaded: Any = transformers.AutoModelForImageTextToText.from_pretrained(
        checkpoint, dtype=torch.float32
    )
    weights = {name: tensor.numpy() for name, tensor in loaded.state_dict().items()}
    tokenizer = transformers.AutoTokenizer.from_pretrained(checkpoint)
    write_language(folder / LANGUAGE_FILE, loaded.config.text_config, weights, tokenizer)
    write_projector(folder / PROJECTOR_FILE, loaded.config, weights)


def write_language(path: Path, config: Any, weights: Weights, tokenizer: Any) -> None:
    """A Llama. `weights` by transformers' names, of the text model alone or within another."""
    writer = GGUFWriter(path, "llama")
    heads, kv_heads = config.num_attention_heads, config.num_key_value_heads
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(heads)
    writer.add_head_count_kv(kv_heads)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_dimension_count(config.hidden_size // heads)
    writer.add_vocab_size(config.vocab_size)
    _add_tokenizer(writer, config, tokenizer)
    prefix = "model.text_model." if "model.text_model.norm.weight" in weights else ""
    prefix = prefix or "model.language_model."
    _add(writer, "token_embd.weight", weights[f"{prefix}embed_tokens.weight"])
    _add(writer, "output_norm.weight", weights[f"{prefix}norm.weight"])
    _add(writer, "output.weight", weights["lm_head.weight"])
    for layer, ours, theirs in _layers(config.num_hidden_layers, LANGUAGE_LAYER):
        tensor = weights[f"{prefix}layers.{layer}.{theirs}.weight"]
        if ours in {"attn_q", "attn_k"}:
            tensor = _interleaved(tensor, heads if ours == "attn_q" else kv_heads)
        _add(writer, f"blk.{layer}.{ours}.weight", tensor)
    _finish(writer)


def write_projector(path: Path, config: Any, weights: Weights) -> None:
    """The vision tower and projector of a LLaVA, or of an Idefics3, as which SmolVLM goes."""
    writer, vision = GGUFWriter(path, "clip"), config.vision_config
    is_llava = config.model_type == "llava"
    writer.add_clip_has_vision_encoder(True)
    writer.add_string("clip.projector_type", "mlp" if is_llava else "idefics3")
    writer.add_vision_projection_dim(config.text_config.hidden_size)
    writer.add_vision_image_size(vision.image_size)
    writer.add_vision_patch_size(vision.patch_size)
    writer.add_vision_embedding_length(vision.hidden_size)
    writer.add_vision_feed_forward_length(vision.intermediate_size)
    writer.add_vision_block_count(vision.num_hidden_layers)
    writer.add_vision_head_count(vision.num_attention_heads)
    writer.add_vision_attention_layernorm_eps(vision.layer_norm_eps)
    (_add_llava if is_llava else _add_idefics3)(writer, config, weights)
    prefix = "model.vision_tower." if is_llava else "model.vision_model."
    embeddings = f"{prefix}embeddings."
    _add(writer, "v.patch_embd.weight", weights[f"{embeddings}patch_embedding.weight"])
    _add(writer, "v.position_embd.weight", weights[f"{embeddings}position_embedding.weight"])
    for layer, ours, theirs in _layers(vision.num_hidden_layers, VISION_LAYER):
        _both(writer, f"v.blk.{layer}.{ours}", weights, f"{prefix}encoder.layers.{layer}.{theirs}")
    _finish(writer)


def _add_llava(writer: GGUFWriter, _config: Any, weights: Weights) -> None:
    writer.add_vision_image_mean(CLIP_MEAN)
    writer.add_vision_image_std(CLIP_STD)
    _add(writer, "v.class_embd", weights["model.vision_tower.embeddings.class_embedding"])
    _both(writer, "v.pre_ln", weights, "model.vision_tower.pre_layrnorm")
    for ours, theirs in (("mm.0", "linear_1"), ("mm.2", "linear_2")):
        _both(writer, ours, weights, f"model.multi_modal_projector.{theirs}")


def _add_idefics3(writer: GGUFWriter, config: Any, weights: Weights) -> None:
    writer.add_vision_image_mean([0.5] * 3)
    writer.add_vision_image_std([0.5] * 3)
    writer.add_vision_use_gelu(True)
    writer.add_vision_projector_scale_factor(config.scale_factor)
    writer.add_vision_preproc_image_size(2 * SIDE)
    patches = "model.vision_model.embeddings.patch_embedding.bias"
    _add(writer, "v.patch_embd.bias", weights[patches])
    _both(writer, "v.post_ln", weights, "model.vision_model.post_layernorm")
    fc = "model.connector.modality_projection.proj.weight"
    _add(writer, "mm.model.fc.weight", weights[fc])


def _add_tokenizer(writer: GGUFWriter, config: Any, tokenizer: Any) -> None:
    data = json.loads(tokenizer.backend_tokenizer.to_str())
    special = {token["content"] for token in data["added_tokens"]}
    names = {number: name for name, number in tokenizer.get_vocab().items()}
    tokens = [names.get(number, f"[unused {number}]") for number in range(config.vocab_size)]
    kinds = [
        TokenType.UNUSED
        if number not in names
        else TokenType.CONTROL
        if name in special
        else TokenType.NORMAL
        for number, name in enumerate(tokens)
    ]
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")
    writer.add_token_list(tokens)
    writer.add_token_types(kinds)
    writer.add_token_merges([" ".join(pair) for pair in data["model"]["merges"]])
    writer.add_bos_token_id(config.bos_token_id)
    writer.add_eos_token_id(config.eos_token_id)
    writer.add_add_bos_token(False)
    writer.add_chat_template(TALK)


def _interleaved(tensor: Any, heads: int) -> Any:
    """Rows in the order of llama.cpp's rotary embedding, whose pairs stand side by side."""
    rows, columns = tensor.shape
    return tensor.reshape(heads, 2, rows // heads // 2, columns).swapaxes(1, 2).reshape(rows, -1)


def _layers(count: int, names: dict[str, str]) -> Iterator[tuple[int, str, str]]:
    return ((layer, ours, theirs) for layer in range(count) for ours, theirs in names.items())


def _both(writer: GGUFWriter, ours: str, weights: Weights, theirs: str) -> None:
    for kind in ("weight", "bias"):
        _add(writer, f"{ours}.{kind}", weights[f"{theirs}.{kind}"])


def _add(writer: GGUFWriter, name: str, tensor: Any) -> None:
    writer.add_tensor(name, np.ascontiguousarray(tensor, np.float32))


def _finish(writer: GGUFWriter) -> None:
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


SAVED: dict[str, Callable[[Path], dict[str, Any]]] = {
    "llava": save_llava,
    "smolvlm": save_smolvlm_of_tiles,
}
