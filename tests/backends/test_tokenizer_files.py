"""Tokenizers split text as their published files say: the loaded one against tokenizer.json as the
`tokenizers` library reads it, or against SentencePiece, on text around special tokens. The
published vocabularies are not here; these have the same structure and few words."""

from __future__ import annotations

import json
from collections.abc import Callable
from itertools import product
from pathlib import Path
from typing import Any

import pytest
import sentencepiece
from tiny_models import WORDS, Checkpoint, byte_tokenizer, load_causal, save_causal, tokenizer
from tokenizers import (
    AddedToken,
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    processors,
    trainers,
)

from multimodal.backends.tokenizer_files import load_tokenizer
from multimodal.errors import BackendError

SPACE = "▁"
TEXTS = ("[INST] What is it? [/INST]", " it", "it  is ", "\nis", "", " ", "é 漢 🙂", "USER: a</b>.")
LETTERS = "".join(sorted(set(WORDS + "".join(TEXTS) + SPACE)))
ENDS = ("<unk>", "<s>", "</s>")


def llama_like(normalizer: Any, pre_tokenizer: Any, strip: bool, *more: AddedToken) -> Tokenizer:
    """BPE over whole texts with bytes for what it does not know, as SentencePiece makes it."""
    made = Tokenizer(models.BPE(unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    trainer = trainers.BpeTrainer(
        vocab_size=700,
        special_tokens=[*ENDS, *(f"<0x{byte:02X}>" for byte in range(256))],
        initial_alphabet=list(LETTERS),
        show_progress=False,
    )
    made.normalizer = normalizers.Sequence(
        [normalizers.Prepend(SPACE), normalizers.Replace(" ", SPACE)]
    )
    made.pre_tokenizer = pre_tokenizers.Split(SPACE, "merged_with_next")
    made.train_from_iterator([WORDS, *TEXTS] * 3, trainer)
    # The trainer takes bytes for special tokens; published vocabularies do not.
    state = json.loads(made.to_str())
    state["added_tokens"] = []
    made = Tokenizer.from_str(json.dumps(state))
    made.normalizer, made.pre_tokenizer = normalizer, pre_tokenizer
    steps = [decoders.Replace(SPACE, " "), decoders.ByteFallback(), decoders.Fuse()]
    made.decoder = decoders.Sequence([*steps, *([decoders.Strip(" ", 1, 0)] if strip else [])])
    plain = [AddedToken(token, special=True, normalized=False) for token in ENDS]
    made.add_special_tokens([*plain, *more])
    made.post_processor = processors.TemplateProcessing(
        single="<s> $A", pair="<s> $A <s> $B", special_tokens=[("<s>", 1)]
    )
    return made


def prepending(*more: AddedToken) -> Tokenizer:
    steps = [normalizers.Prepend(SPACE), normalizers.Replace(" ", SPACE)]
    return llama_like(normalizers.Sequence(steps), None, True, *more)


def splitting(*more: AddedToken) -> Tokenizer:
    space = pre_tokenizers.Metaspace(SPACE, prepend_scheme="first", split=False)
    return llama_like(None, space, True, *more)


def gemma_like(*more: AddedToken) -> Tokenizer:
    spaces = pre_tokenizers.Split(" ", "merged_with_previous")
    return llama_like(normalizers.Replace(" ", SPACE), spaces, False, *more)


def of_bytes(*more: AddedToken) -> Tokenizer:
    made: Tokenizer = byte_tokenizer(ENDS)
    made.add_special_tokens(list(more))
    return made


def seamless_like(*more: AddedToken) -> Tokenizer:
    """Its file collapses spaces with a table of SentencePiece's; a rule of the same effect here."""
    made = prepending(*more)
    made.normalizer = normalizers.Sequence([normalizers.NFKC(), normalizers.Replace("  ", " ")])
    made.pre_tokenizer = pre_tokenizers.Metaspace(SPACE, prepend_scheme="always", split=True)
    made.decoder = decoders.Metaspace(SPACE, prepend_scheme="always", split=True)
    return made


def sign(text: str, **more: Any) -> AddedToken:
    return AddedToken(text, special=True, normalized=False, **more)


INST = (sign("[INST]"), sign("[/INST]"))
TURN = (sign("<|user|>", rstrip=True), sign("<|end|>", rstrip=True))
PUBLISHED: dict[str, tuple[str, str, Callable[..., Tokenizer], tuple[AddedToken, ...]]] = {
    "llama-2": ("llama", "LlamaTokenizer", prepending, ()),
    "vicuna": ("llama", "LlamaTokenizer", prepending, (sign("[PAD]"),)),
    "llava-1.5": ("llava", "LlamaTokenizer", prepending, (sign("<image>"),)),
    "llava-next": ("llava_next", "LlamaTokenizer", prepending, (sign("<image>"),)),
    "mistral": ("mistral", "LlamaTokenizer", splitting, INST),
    "mistral-legacy": ("mistral", "LlamaTokenizer", prepending, INST),
    "phi-3": ("phi3", "LlamaTokenizer", prepending, TURN),
    "gemma": ("gemma", "GemmaTokenizer", gemma_like, (sign("<start_of_turn>"),)),
    "gemma-as-llama": ("llama", "LlamaTokenizer", gemma_like, ()),
    "llama-3": ("llama", "PreTrainedTokenizerFast", of_bytes, (sign("<|eot_id|>"),)),
    "gpt-2": ("gpt2", "GPT2Tokenizer", of_bytes, ()),
    "smolvlm": ("idefics3", "GPT2Tokenizer", of_bytes, (sign("<end_of_utterance>"),)),
    "blip-2": ("blip-2", "GPT2Tokenizer", of_bytes, (sign("<image>"),)),
    "instructblip": ("instructblip", "LlamaTokenizer", prepending, (sign("<image>"),)),
    "seamless": ("seamless_m4t_v2", "SeamlessM4TTokenizer", seamless_like, (sign("__eng__"),)),
}
"""By model: its type, the class its files name, the structure of its tokenizer.json, and the
special tokens beside `<s>` and its like."""


def publish(folder: Path, name: str) -> Tokenizer:
    kind, cls, make, more = PUBLISHED[name]
    made = make(*more)
    folder.mkdir(exist_ok=True)
    made.save(str(folder / "tokenizer.json"))
    config = {
        "tokenizer_class": cls,
        "bos_token": "<s>",
        "eos_token": "</s>",
        "unk_token": "<unk>",
        "legacy": False,
        "model_max_length": 4096,
        "clean_up_tokenization_spaces": False,
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    (folder / "config.json").write_text(json.dumps({"model_type": kind}))
    return Tokenizer.from_file(str(folder / "tokenizer.json"))


@pytest.mark.parametrize("name", PUBLISHED)
def test_text_around_special_tokens_is_split_as_tokenizer_json_says(
    name: str, tmp_path: Path
) -> None:
    published = publish(tmp_path, name)
    loaded = load_tokenizer(tmp_path)
    signs = ["", *ENDS, *(token.content for token in PUBLISHED[name][3])]
    for before, text, between, rest in product(signs, TEXTS, signs, TEXTS):
        written = before + text + between + rest
        wanted = published.encode(written, add_special_tokens=False)
        found = loaded(written, add_special_tokens=False)["input_ids"]
        assert found == wanted.ids, (written, wanted.tokens, loaded.convert_ids_to_tokens(found))
        assert loaded.decode(found, skip_special_tokens=True) == published.decode(wanted.ids)


def test_the_bracket_after_the_opening_token_of_llama_2_begins_a_word(tmp_path: Path) -> None:
    publish(tmp_path, "llama-2")
    loaded = load_tokenizer(tmp_path)
    tokens = loaded.tokenize("<s>[INST] What is it? [/INST] is </s><s>[INST] a")
    after = [tokens[at + 1] for at, token in enumerate(tokens) if token == "<s>"]
    assert len(after) == 2, tokens
    assert all(token.startswith(SPACE + "[") for token in after), after


def sentencepiece_only(folder: Path, **config: Any) -> sentencepiece.SentencePieceProcessor:
    """A folder as Vicuna's first version was published: no tokenizer.json."""
    (folder / "words.txt").write_text("\n".join([WORDS, *TEXTS] * 3), "utf-8")
    sentencepiece.SentencePieceTrainer.train(
        input=str(folder / "words.txt"),
        model_prefix=str(folder / "tokenizer"),
        vocab_size=400,
        model_type="bpe",
        byte_fallback=True,
        normalization_rule_name="identity",
        remove_extra_whitespaces=False,
        minloglevel=2,
    )
    stated = {"tokenizer_class": "LlamaTokenizer", "bos_token": "<s>", "eos_token": "</s>"}
    (folder / "tokenizer_config.json").write_text(json.dumps({**stated, **config}))
    (folder / "config.json").write_text(json.dumps({"model_type": "llama"}))
    return sentencepiece.SentencePieceProcessor(str(folder / "tokenizer.model"))


def test_a_llama_tokenizer_without_tokenizer_json_splits_as_sentencepiece(tmp_path: Path) -> None:
    reference = sentencepiece_only(tmp_path)
    loaded = load_tokenizer(tmp_path)
    for text in (*TEXTS, WORDS, f"  {WORDS}"):
        found = loaded(text, add_special_tokens=False)["input_ids"]
        assert found == reference.encode(text), (text, loaded.convert_ids_to_tokens(found))
    # Text between special tokens is a text of its own, as with the first Llama tokenizers.
    for text, rest in product(TEXTS, TEXTS):
        found = loaded(f"<s>{text}</s>{rest}", add_special_tokens=False)["input_ids"]
        assert found == [1, *reference.encode(text), 2, *reference.encode(rest)]


def test_a_tokenizer_that_knows_more_than_the_model_is_refused_at_load(tmp_path: Path) -> None:
    config = save_causal(tmp_path, "llama", vocab_size=300)
    told = r"its tokenizer knows 3\d\d tokens, .* embeddings for 300"
    with pytest.raises(BackendError, match=told):
        load_causal((tmp_path, config))


def with_a_token_more(folder: Path, template: str) -> Checkpoint:
    """A checkpoint whose tokenizer has a special token that the model was never enlarged for."""
    known = tokenizer(template)
    config = save_causal(folder, "llama", vocab_size=len(known))
    known.add_special_tokens({"additional_special_tokens": ["<|new|>"]})
    known.save_pretrained(folder)
    return folder, config


def test_a_special_token_that_the_template_writes_must_have_an_embedding(tmp_path: Path) -> None:
    template = "<|new|>{% for m in messages %}{{ m['content'] }}{% endfor %}"
    with pytest.raises(BackendError, match=r'such as "<\|new\|>"'):
        load_causal(with_a_token_more(tmp_path, template))


def test_a_special_token_that_nothing_writes_needs_none(tmp_path: Path) -> None:
    template = "{% for m in messages %}{{ m['content'] }}{% endfor %}"
    assert load_causal(with_a_token_more(tmp_path, template))
