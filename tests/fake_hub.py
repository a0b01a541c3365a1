"""A hub of models on loopback that misbehaves as told, and a card of a repository on it."""

from __future__ import annotations

import hashlib
import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from urllib.parse import unquote, urlsplit

from huggingface_hub import HfApi
from local_server import running_server

from multimodal.catalog.cards import ModelCard
from multimodal.weights import Weights

REPO = "people/tiny"
FIRST, SECOND = "a" * 40, "b" * 40
TENSORS = bytes(range(256)) * 4000
FILES = {
    "model.safetensors": TENSORS,
    "config.json": b'{"model_type": "tiny"}',
    "tokenizer.model": b"pieces" * 100,
    "merges.txt": b"",
    "README.md": b"# Tiny",
    "modeling_tiny.py": b"raise SystemExit",
    "pytorch_model.bin": b"pickled" * 1000,
    "flax_model.msgpack": b"packed" * 1000,
}
FETCHED = {"model.safetensors", "config.json", "tokenizer.model", "merges.txt"}


@dataclass
class FakeHub:
    """A hub on loopback that misbehaves as told."""

    url: str = ""
    commits: dict[str, dict[str, bytes]] = field(default_factory=lambda: {FIRST: FILES})
    refs: dict[str, str] = field(default_factory=lambda: {"main": FIRST})
    others: dict[str, dict[str, bytes]] = field(default_factory=dict)
    """Files of other repositories, each at the commit FIRST; they are sent as "repo/file"."""
    gated: set[str] = field(default_factory=set)
    """Repositories that list their files and hand out none."""
    addresses: dict[str, bytes] = field(default_factory=lambda: {"small.pt": TENSORS})
    """Files that lie below /file/, in no repository."""
    served: dict[str, bytes] = field(default_factory=dict)
    """What is sent in place of the content that is listed."""
    refusal: tuple[int, str] | None = None
    listing_refused: bool = False
    busy: list[int] = field(default_factory=list)
    cut_after: list[int] = field(default_factory=list)
    cut: str = "model.safetensors"
    """The file whose sending is cut, or falls silent."""
    silent: threading.Event | None = None
    pause_s: float = 0.0
    late_s: float = 0.0
    """Before anything is answered about a file."""
    etags: bool = True
    """Whether a file's checksum is told with it."""
    elsewhere: bool = False
    """Whether files lie with another host, as the hub's do."""
    requests: list[str] = field(default_factory=list)
    tokens: list[tuple[str, str]] = field(default_factory=list)
    """The host that was asked, and the token it was given."""
    sent: list[tuple[str, int, int]] = field(default_factory=list)

    def api(self) -> HfApi:
        return HfApi(endpoint=self.url, token="hf_secret")

    @property
    def files_sent(self) -> set[str]:
        return {name for name, _status, _size in self.sent}


class Handler(BaseHTTPRequestHandler):
    state: FakeHub

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        state, path = self.state, unquote(urlsplit(self.path).path)
        state.requests.append(path)
        host = self.headers["Host"].partition(":")[0]
        state.tokens.append((host, self.headers.get("Authorization", "")))
        listing = path.startswith("/api/")
        time.sleep(0 if listing else state.late_s)
        if state.busy:
            self._send(state.busy.pop(0), b"later", {})
        elif state.refusal and (state.listing_refused or not listing):
            status, code = state.refusal
            self._send(status, b"{}", {"X-Error-Code": code} if code else {})
        elif path.startswith("/file/"):
            name = path.removeprefix("/file/")
            self._send_file(name, state.addresses[name])
        elif listing:
            self._list(path)
        elif state.elsewhere and host != "localhost":
            other = state.url.replace("127.0.0.1", "localhost")
            self._send(302, b"", {"Location": other + self.path})
        else:
            self._resolve(path)

    def _resolve(self, path: str) -> None:
        state = self.state
        repo, _, place = path.removeprefix("/").partition("/resolve/")
        revision, _, name = place.partition("/")
        files = state.others.get(repo, {})
        if repo == REPO:
            files = state.commits.get(state.refs.get(revision, revision), {})
        if repo in state.gated:
            self._send(403, b"{}", {"X-Error-Code": "GatedRepo"})
        elif repo != REPO and repo not in state.others:
            self._send(404, b"{}", {"X-Error-Code": "RepoNotFound"})
        elif name not in files:
            self._send(404, b"{}", {"X-Error-Code": "EntryNotFound"})
        else:
            self._send_file(name if repo == REPO else f"{repo}/{name}", files[name])

    def _list(self, path: str) -> None:
        repo, _, revision = path.removeprefix("/api/models/").partition("/revision/")
        commit = self.state.refs.get(revision, revision)
        commits = {REPO: self.state.commits}
        commits |= {other: {FIRST: files} for other, files in self.state.others.items()}
        if repo not in commits:
            self._send(404, b"{}", {"X-Error-Code": "RepoNotFound"})
        elif commit not in commits[repo]:
            self._send(404, b"{}", {"X-Error-Code": "RevisionNotFound"})
        else:
            files = [listed(*file) for file in commits[repo][commit].items()]
            answer = {"id": repo, "sha": commit, "siblings": files}
            self._send(200, json.dumps(answer).encode(), {})

    def _send_file(self, name: str, content: bytes) -> None:
        content = self.state.served.get(name, content)
        start = int(self.headers.get("Range", "bytes=0-").removeprefix("bytes=").removesuffix("-"))
        etag = {"ETag": f'"{hashlib.sha256(content).hexdigest()}"'} if self.state.etags else {}
        if start and start >= len(content):
            self._send(416, b"", {})
            return
        self._send(206 if start else 200, content[start:], etag, name)

    def _send(
        self, status: int, body: bytes, headers: dict[str, str], name: str | None = None
    ) -> None:
        head, part = self.command == "HEAD", body
        if name == self.state.cut and self.state.cut_after and not head:
            part = body[: self.state.cut_after.pop(0)]
        if name is not None and not head:
            # Noted first: once an empty file's headers are out, whoever asked goes on.
            self.state.sent.append((name, status, len(part)))
        self.send_response(status)
        for header, value in ({"Content-Length": str(len(body))} | headers).items():
            self.send_header(header, value)
        self.end_headers()
        if head:
            return
        try:
            for at in range(0, len(part), 100_000):
                self.wfile.write(part[at : at + 100_000])
                time.sleep(self.state.pause_s if name else 0)
                if self.state.silent is not None and name == self.state.cut:
                    self.state.silent.wait(30)
        except OSError:
            self.close_connection = True
        if len(part) < len(body):
            self.close_connection = True


def listed(name: str, content: bytes) -> dict[str, object]:
    """A file as the hub's interface lists it: large ones in LFS, small ones in git."""
    entry: dict[str, object] = {"rfilename": name, "size": len(content)}
    if name.endswith((".safetensors", ".bin", ".msgpack")):
        sha256 = hashlib.sha256(content).hexdigest()
        entry["lfs"] = {"sha256": sha256, "size": len(content), "pointerSize": 130}
        entry["blobId"] = "0" * 40
    else:
        entry["blobId"] = hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()  # noqa: S324
    return entry


@contextmanager
def running_hub() -> Iterator[FakeHub]:
    state = FakeHub()
    with running_server(Handler, state=state) as state.url:
        try:
            yield state
        finally:
            if state.silent is not None:
                state.silent.set()


def card_for(**source: object) -> ModelCard:
    return ModelCard.model_validate(
        {
            "name": "tiny",
            "title": "Tiny",
            "task": "text-generation",
            "family": "fake",
            "license": "MIT",
            "architecture": {"kind": "measured", "weights_bytes": len(TENSORS)},
            "source": {"kind": "hub", "repo": REPO} | source,
        }
    )


CARD = card_for()


def weights(folder: Path, hub: FakeHub, **more: object) -> Weights:
    return Weights(folder, hub=hub.api, **({"retry_wait_s": 0.01} | more))  # type: ignore[arg-type]


def contents(folder: Path) -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file() and path.name not in {"verified.json", "pinned.json"}
    }
