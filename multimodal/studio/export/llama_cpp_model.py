"""A GGUF file as llama.cpp reads it, with the project's own parameters for it.

Keys and values are kept in 32 bits, so that what differs is the file's. Texts become tokens, and
conversations texts, by the endpoints `/tokenize` and `/apply-template` that llama.cpp's server has
on loopback; xllamacpp offers no call for them.
"""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import httpx2 as httpx
import torch
import xllamacpp
from gguf import GGUFReader

from multimodal.backends.llama_cpp.engine import parameters
from multimodal.backends.llama_cpp.gguf_files import GgufFiles, find_unsupported_reason
from multimodal.catalog.cards import ModelCard
from multimodal.errors import BackendError, RequestError
from multimodal.studio.export.gguf_ends import declared_ends
from multimodal.studio.export.opened import Messages, Prediction

CONTEXT_TOKENS = 512
LISTED = 256
"""Most likely tokens whose probability is asked for at each position."""
NEAR_TIE = 0.02
TIMEOUT_S = 60.0
SURE = 1000
"""A bias in nats with which a token is certain."""


class LlamaCppModel:
    """As `OpenedModel` says."""

    near_tie = NEAR_TIE

    def __init__(self, card: ModelCard, path: Path) -> None:
        """`card`: the model's. Raises BackendError where llama.cpp refuses the file."""
        header = GGUFReader(path)
        self._ends = declared_ends(header)
        self._has_template = header.get_field("tokenizer.chat_template") is not None
        self._is_tied = all(tensor.name != "output.weight" for tensor in header.tensors)
        self._key = secrets.token_hex(16)
        files = GgufFiles(path)
        params = parameters(_plain(card), CONTEXT_TOKENS, files, "cpu")
        params.api_keys = [self._key]
        params.cache_type_k = params.cache_type_v = xllamacpp.ggml_type.GGML_TYPE_F32
        try:
            self._server = xllamacpp.Server(params)
        except RuntimeError as error:
            reason = find_unsupported_reason(files)
            raise BackendError(f"The exported file cannot be loaded: {reason}.") from error
        # A server that is closed before it has computed never ends (see `llama_cpp/engine.py`).
        self._server.handle_completions({"prompt": "a", "n_predict": 0}, lambda _: False)
        self._letter = self._post("tokenize", content="a", add_special=False)["tokens"][-1]

    def greedy(self, tokens: Sequence[int], count: int) -> list[int]:
        """llama.cpp also ends at tokens that it knows by their looks, such as `</s>`; there the
        next token is the most likely one by its probability."""
        said: list[int] = []
        while len(said) < count:
            before = [*tokens, *said]
            told = self._post(
                "completion",
                prompt=before,
                n_predict=count - len(said),
                temperature=0.0,
                return_tokens=True,
                cache_prompt=False,
            )
            said += told["tokens"]
            if len(said) < count:
                next_one = self._predict([*tokens, *said])
                said.append(int(next_one.tokens[next_one.log_probabilities.argmax()]))
        return said[:count]

    def log_probabilities(self, tokens: Sequence[int]) -> list[Prediction]:
        """One request a position, each of which computes one token more than the one before."""
        return [self._predict(tokens[:end]) for end in range(1, len(tokens) + 1)]

    def tokenize(self, text: str) -> list[int]:
        told = self._post("tokenize", content=text, add_special=True, parse_special=True)
        return [int(number) for number in told["tokens"]]

    def render(self, messages: Messages) -> str | None:
        if not self._has_template:
            return None
        told = self._post("apply-template", messages=[dict(it) for it in messages])
        return str(told["prompt"])

    def end_ids(self) -> set[int]:
        return self._ends

    def ends_with(self, token: int) -> bool:
        """The token is made certain: an answer that ends with it has no text."""
        choice = self._complete([token], n_predict=2, logit_bias=[[token, SURE]])
        return bool(choice["finish_reason"] == "stop" and not choice["text"])

    def is_tied(self) -> bool:
        return self._is_tied

    def close(self) -> None:
        del self._server

    def _predict(self, tokens: Sequence[int]) -> Prediction:
        """What is drawn is no matter, as long as it has a text and does not end one."""
        choice = self._complete(
            tokens,
            n_predict=1,
            n_probs=LISTED,
            logit_bias=[[self._letter, SURE]],
            cache_prompt=True,
        )
        listed = choice["logprobs"]["content"][0]["top_logprobs"]
        ids, values = zip(*((it["id"], it["logprob"]) for it in listed), strict=True)
        return Prediction(torch.tensor(ids), torch.tensor(values))

    def _complete(self, tokens: Sequence[int], **more: Any) -> Any:
        asked = {"prompt": list(tokens), "temperature": 0.0, "cache_prompt": False, **more}
        chunks: list[dict[str, Any]] = []
        self._server.handle_completions(asked, chunks.append)
        if "error" in chunks[0]:
            raise BackendError(f"llama.cpp failed: {chunks[0]['error'].get('message')}")
        return chunks[0]["choices"][0]

    def _post(self, where: str, **asked: Any) -> Any:
        try:
            told = httpx.post(
                f"{self._server.listening_address}/{where}",
                json=asked,
                headers={"Authorization": f"Bearer {self._key}"},
                timeout=TIMEOUT_S,
                trust_env=False,
            )
        except httpx.HTTPError as error:
            raise BackendError(f"llama.cpp does not answer ({error}).") from error
        if told.is_error:
            raise RequestError(f"llama.cpp refused it: {told.text[:200]}")
        return told.json()


def _plain(card: ModelCard) -> ModelCard:
    """With one slot, and of the engine's options, which may be another engine's, its threads."""
    threads = {k: v for k, v in card.engine.items() if k == "threads"}
    return card.model_copy(update={"engine": threads, "concurrency": 1, "chat_template": ""})
