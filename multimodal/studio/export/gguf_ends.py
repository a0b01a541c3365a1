"""The tokens that end an answer, by the header of a GGUF file."""

from __future__ import annotations

from gguf import GGUFReader

ENDS = ("eos", "eot", "eom")


def declared_ends(reader: GGUFReader) -> set[int]:
    """The tokens that end a message, a turn or an answer by the header of a GGUF file."""
    fields = (reader.get_field(f"tokenizer.ggml.{name}_token_id") for name in ENDS)
    return {int(field.contents()) for field in fields if field is not None}
