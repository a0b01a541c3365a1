"""An export that was loaded back, compared with its source.

Where no weight lost anything, the most likely continuations must be the source's, token by token.
Another engine adds up numbers in another order, so where the source itself holds the two tokens for
almost as likely (`OpenedModel.near_tie`) either may come, and the comparison goes on behind it.

Where weights were rounded, the probabilities of the next token are compared at each position of a
fixed text: the mean Kullback-Leibler divergence KL(source || export), and how often both hold the
same token for the most likely. An engine that lists only the most likely tokens has all others
compared as one, which makes the divergence no larger. Tokens between which the source is undecided
(`UNDECIDED` nats) agree either way.

Limits are a few times what was measured of whole exports (docs/decisions/0038-export.md); what is
wrong with a file, such as rows in another order, is out by a multiple of them.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from statistics import fmean

import torch

from multimodal.errors import RequestError
from multimodal.studio.export.opened import OpenedModel, Prediction
from multimodal.studio.export.plan import Check, Latency
from multimodal.studio.export.reference import CONVERSATIONS, Continuation, Reference
from multimodal.studio.export.timing import fastest

LIBRARIES = (
    *("gguf", "onnx", "onnxruntime", "onnxscript", "safetensors", "tokenizers", "torch"),
    *("transformers", "xllamacpp"),
)
UNDECIDED = 0.1
CHUNK = 1 << 20


@dataclass(frozen=True, slots=True)
class Tolerance:
    """`divergence`: at most, in nats on average; `agreement`: at least, as a share."""

    divergence: float
    agreement: float


TOLERANCES: Mapping[str, Tolerance] = {
    "f32": Tolerance(0.001, 0.99),
    "bf16": Tolerance(0.01, 0.95),
    "f16": Tolerance(0.002, 0.98),
    "q8_0": Tolerance(0.02, 0.93),
    "q5_1": Tolerance(0.3, 0.70),
    "q5_0": Tolerance(0.3, 0.70),
    "q4_1": Tolerance(0.6, 0.50),
    "q4_0": Tolerance(0.6, 0.50),
}


def compare(
    opened: OpenedModel, reference: Reference, quantization: str, file: str
) -> Iterator[Check]:
    """Every check of a file that was loaded back."""
    if quantization in {reference.stored, "f32"}:
        yield _same_tokens(opened, reference, file)
    yield from _close_probabilities(opened, reference, quantization, file)
    yield _same_encoding(opened, reference, file)
    yield _same_template(opened, reference, file)
    yield _same_ends(opened, reference, file)
    if (is_tied := opened.is_tied()) is not None:
        yield _same_tie(is_tied, reference, file)


def digests(folder: Path) -> dict[str, str]:
    """SHA-256 of every file, by its path below `folder`."""
    paths = sorted(path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): _digest(path) for path in paths}


def versions() -> dict[str, str]:
    """Of those that are installed."""
    found: dict[str, str] = {}
    for name in LIBRARIES:
        with suppress(PackageNotFoundError):
            found[name] = version(name)
    return found


def latency(opened: OpenedModel, reference: Reference, file: str) -> Latency:
    """Milliseconds a token of the most likely continuation of a prompt, its prompt counted in: the
    export's beside the source's, which was timed in the same process."""
    prompt = reference.continuations[0].prompt
    count = len(reference.continuations[0].tokens)
    seconds = fastest(lambda: opened.greedy(prompt, count))
    return Latency(file, "token", reference.token_ms, seconds / count * 1000)


def _digest(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(CHUNK):
            digest.update(chunk)
    return digest.hexdigest()


# ------------------------------------------------------------ what it says


def _same_tokens(opened: OpenedModel, reference: Reference, file: str) -> Check:
    found = [_agreeing(opened, it) for it in reference.continuations]
    wanted = sum(len(it.tokens) for it in reference.continuations)
    same = sum(agreed for agreed, _ in found)
    ties = sum(tied for _, tied in found)
    told = f"{same} of {wanted} tokens" + (f", {ties} of them near ties" if ties else "")
    return Check(
        "greedy tokens",
        file,
        same == wanted,
        told,
        f"all, or within {opened.near_tie:g} nats of the most likely",
        f"the most likely continuation of {len(reference.continuations)} prompts",
    )


def _agreeing(opened: OpenedModel, wanted: Continuation) -> tuple[int, int]:
    """How many tokens agree before the first that does not, and how many of them are near ties."""
    at = ties = 0
    while at < len(wanted.tokens):
        left = wanted.tokens[at:]
        said = opened.greedy((*wanted.prompt, *wanted.tokens[:at]), len(left))
        same = next(
            (
                place
                for place, pair in enumerate(zip(left, said, strict=False))
                if len(set(pair)) > 1
            ),
            min(len(left), len(said)),
        )
        at += same
        if at == len(wanted.tokens):
            break
        other = said[same] if same < len(said) else None
        likely = wanted.likely[at]
        if other is None or likely[wanted.tokens[at]] - likely.get(other, -1e9) > opened.near_tie:
            break
        at, ties = at + 1, ties + 1
    return at, ties


def _close_probabilities(
    opened: OpenedModel, reference: Reference, quantization: str, file: str
) -> Iterator[Check]:
    found = opened.log_probabilities(reference.text)
    rows = reference.text_log_probabilities
    divergence = fmean(map(_divergence, rows, found))
    agreement = fmean(map(_is_agreed, rows, found))
    where = f"{len(found)} positions of a fixed text"
    yield from check_probabilities(divergence, agreement, quantization, where, file)


def check_probabilities(
    divergence: float, agreement: float, quantization: str, where: str, file: str
) -> Iterator[Check]:
    """`divergence`: the mean in nats of the next token; `agreement`: how often the likeliest one is
    the source's; `where` says of what."""
    allowed = TOLERANCES[quantization]
    yield Check(
        "divergence",
        file,
        divergence <= allowed.divergence,
        f"{divergence:.2g} nats",
        f"at most {allowed.divergence:g} nats",
        f"mean KL(source || export) of the next token at {where}",
    )
    yield Check(
        "most likely token",
        file,
        agreement >= allowed.agreement,
        f"{agreement:.1%}",
        f"at least {allowed.agreement:.0%}",
        f"how often it is the source's, at {where}",
    )


def _divergence(expected: torch.Tensor, found: Prediction) -> float:
    """KL(source || export) in nats, the tokens that are not listed taken as one."""
    theirs = expected[found.tokens].double()
    ours = found.log_probabilities.double()
    listed = (theirs.exp() * (theirs - ours)).sum()
    if len(found.tokens) == len(expected):
        return float(listed)
    rest = (1 - theirs.exp().sum()).clamp_min(1e-12)
    other = (1 - ours.exp().sum()).clamp_min(1e-12)
    return float(listed + rest * (rest / other).log())


def _is_agreed(expected: torch.Tensor, found: Prediction) -> bool:
    best = found.tokens[found.log_probabilities.argmax()]
    return bool(expected.max() - expected[best] <= UNDECIDED)


# ------------------------------------------------------------ what it reads


def _same_encoding(opened: OpenedModel, reference: Reference, file: str) -> Check:
    wrong = [text for text, ids in reference.encoded.items() if opened.tokenize(text) != list(ids)]
    return Check(
        "tokens of texts",
        file,
        not wrong,
        f"{len(reference.encoded) - len(wrong)} of {len(reference.encoded)} texts"
        + (f", not {_short(wrong[0])}" if wrong else ""),
        "all",
        "the token ids of prompts and of conversations",
    )


def _same_template(opened: OpenedModel, reference: Reference, file: str) -> Check:
    wanted = [
        (it, text) for it, text in zip(CONVERSATIONS, reference.rendered, strict=False) if text
    ]
    wrong = ""
    if not wanted:
        is_same = opened.render(CONVERSATIONS[0]) is None
        wrong = "" if is_same else "a template where the source has none"
    for messages, text in wanted:
        try:
            told = opened.render(messages)
        except RequestError as error:
            told = str(error)
        if told is None or told.removeprefix(reference.bos) != text.removeprefix(reference.bos):
            wrong = wrong or f"not {_short(told or 'nothing')}"
    figure = f"{len(wanted)} conversations" if wanted else "no template, as the source"
    return Check(
        "chat template",
        file,
        not wrong,
        wrong or figure,
        "the same text",
        "conversations with and without a system message, of one turn and of several",
    )


def _same_ends(opened: OpenedModel, reference: Reference, file: str) -> Check:
    wanted, told = set(reference.end_ids), opened.end_ids()
    deaf = [token for token in sorted(wanted) if not opened.ends_with(token)]
    figure = f"{sorted(told)}" + (f", but {deaf} end nothing" if deaf else "")
    return Check(
        "end tokens",
        file,
        told == wanted and not deaf,
        figure,
        f"{sorted(wanted)}",
        "the token ids that end an answer, as the export says and as it does",
    )


def _same_tie(told: bool, reference: Reference, file: str) -> Check:
    words = {True: "tied", False: "apart"}
    return Check(
        "embeddings",
        file,
        told == reference.is_tied,
        words[told],
        words[reference.is_tied],
        "whether the output layer is the embedding itself",
    )


def _short(text: str) -> str:
    return repr(text if len(text) <= 60 else f"{text[:60]}…")
