"""Ollama: the GGUF file and the Modelfile that `ollama create NAME -f Modelfile` reads.

Its instructions are those of ollama/ollama, docs/modelfile.mdx.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from multimodal.catalog.cards import ModelCard
from multimodal.studio.export.formats import WrittenFile
from multimodal.studio.export.gguf_format import GgufExporter
from multimodal.studio.export.ollama_template import OllamaTemplate, convert_template, differing
from multimodal.studio.export.plan import Check
from multimodal.studio.export.reference import CONVERSATIONS, Reference, has_template
from multimodal.studio.export.source import Source

LEFT_TO_OLLAMA = (
    "The chat template is of a kind that Ollama's language cannot tell here, so the Modelfile has "
    "none, and it is left to Ollama's own detection from the GGUF file."
)
INSTRUCTION = re.compile(
    r'^(?P<name>[A-Z]+) (?:(?P<key>[a-z_]+) )?(?:"""(?P<long>.*?)"""|(?P<short>[^\n]*))$',
    re.MULTILINE | re.DOTALL,
)


class OllamaExporter(GgufExporter):
    """As `formats.Exporter` says."""

    def __init__(self) -> None:
        self._tokenizer: Any = None
        self._bos = self._system = ""
        self._modelfiles: dict[Path, Path] = {}

    def finish(self, source: Source, card: ModelCard, written: Sequence[WrittenFile]) -> list[str]:
        told = super().finish(source, card, written)
        self._tokenizer, self._system = source.tokenizer, card.system_prompt
        ids = source.tokenizer("a")["input_ids"]
        adds_bos = bool(ids) and ids[0] == source.tokenizer.bos_token_id
        self._bos = (source.tokenizer.bos_token or "") if adds_bos else ""
        template = convert_template(source.tokenizer, adds_bos) if has_template(source) else None
        if template is None and has_template(source):
            told.append(LEFT_TO_OLLAMA)
        for file in written:
            several = len(written) > 1
            name = f"Modelfile-{file.quantization}" if several else "Modelfile"
            path = file.path.with_name(name)
            path.write_text("\n".join(_lines(source, card, template, file)) + "\n", "utf-8")
            self._modelfiles[file.path] = path
        return told

    def more_checks(self, written: WrittenFile, reference: Reference) -> list[Check]:
        """The Modelfile is read back and renders the same conversations."""
        path = self._modelfiles[written.path]
        read = read_modelfile(path.read_text("utf-8"))
        template = next((text for name, _, text in read if name == "TEMPLATE"), None)
        checks = [self._same_stops(path.name, read, reference)]
        if template is not None:
            system = next((text for name, _, text in read if name == "SYSTEM"), "")
            checks.append(self._same_template(path.name, OllamaTemplate(template, system)))
        return checks

    def _same_template(self, file: str, template: OllamaTemplate) -> Check:
        wrong = differing(template, self._tokenizer, self._bos, self._system)
        return Check(
            "Ollama template",
            file,
            not wrong,
            f"{len(CONVERSATIONS) - len(wrong)} of {len(CONVERSATIONS)} conversations",
            "the same text",
            "what TEMPLATE writes of a conversation, beside the chat template",
        )

    def _same_stops(
        self, file: str, read: Sequence[tuple[str, str, str]], reference: Reference
    ) -> Check:
        wanted = set(map(self._tokenizer.decode, reference.end_ids))
        told = {text.strip('"') for name, key, text in read if (name, key) == ("PARAMETER", "stop")}
        missing = sorted(wanted - told)
        return Check(
            "Ollama stops",
            file,
            not missing,
            f"{len(wanted) - len(missing)} of {len(wanted)}" + (f", not {missing}" * bool(missing)),
            "all",
            "the end tokens among PARAMETER stop",
        )


def read_modelfile(text: str) -> list[tuple[str, str, str]]:
    """(instruction, name of a parameter or "", value) of each, in their order."""
    return [
        (it["name"], it["key"] or "", it["long"] if it["long"] is not None else it["short"])
        for it in INSTRUCTION.finditer(text)
    ]


def _lines(
    source: Source, card: ModelCard, template: OllamaTemplate | None, file: WrittenFile
) -> Iterator[str]:
    yield f"FROM ./{file.path.name}"
    if template is not None:
        yield f'TEMPLATE """{template.template}"""'
    system = card.system_prompt or (template.system if template is not None else "")
    if system:
        yield f'SYSTEM """{system}"""'
    for name, value in _parameters(source, card):
        yield f"PARAMETER {name} {value}"
    yield f'LICENSE """{card.license}"""'


def _parameters(source: Source, card: ModelCard) -> Iterator[tuple[str, str]]:
    sampling = card.sampling
    for name in ("temperature", "top_p", "top_k", "min_p", "repeat_penalty"):
        if (value := getattr(sampling, name)) is not None:
            yield name, f"{value:g}"
    yield "num_predict", str(sampling.max_tokens)
    if card.context_tokens is not None:
        yield "num_ctx", str(card.context_tokens)
    stops = [*(source.tokenizer.decode(number) for number in source.end_ids), *sampling.stop]
    for stop in dict.fromkeys(stops):
        yield "stop", f'"{stop}"'
