"""A finished job as a file, and the files of its exports: under which address a page finds them."""

from __future__ import annotations

import hmac
import shutil
import tempfile
from collections.abc import Callable, Mapping
from hashlib import sha256
from pathlib import Path
from urllib.parse import quote

from starlette.background import BackgroundTask
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import FileResponse, PlainTextResponse, Response
from starlette.routing import Route

from multimodal.errors import MultimodalError
from multimodal.private_files import make_private_folder

GONE = "There is no such job. It may have been removed."
Export = Callable[[str, Path], object]
"""Writes the job of that id into a file. Raises MultimodalError."""
ExportedFiles = Callable[[str], Mapping[str, Path]]
"""The files of the exports of a job, by the folder's name and their own."""


class Downloads:
    """Addresses hold an HMAC under a secret of the server, so only a page that shows a job leads to
    it. Files are made in `folder` and removed once they were sent."""

    def __init__(
        self, secret: str, folder: Path, export: Export, exports: ExportedFiles = lambda id: {}
    ) -> None:
        self._secret = secret.encode()
        self._folder = folder
        self._export = export
        self._exports = exports

    def address(self, id: str) -> str:
        return f"studio/{self._key(id)}/{id}.zip"

    def file_address(self, id: str, file: str) -> str:
        """Of a file of an export of that job; `file`: its folder's name and its own."""
        return f"studio/{self._key(id)}/{id}/{quote(file)}"

    def routes(self) -> list[Route]:
        return [
            Route("/studio/{key}/{id}.zip", self._serve),
            Route("/studio/{key}/{id}/{file:path}", self._serve_file),
        ]

    def _key(self, id: str) -> str:
        return hmac.new(self._secret, f"job:{id}".encode(), sha256).hexdigest()[:32]

    def _is_right(self, request: Request) -> bool:
        id, key = request.path_params["id"], request.path_params["key"]
        return hmac.compare_digest(key.encode(), self._key(id).encode())

    async def _serve_file(self, request: Request) -> Response:
        if not self._is_right(request):
            return PlainTextResponse(GONE, 404)
        files = await run_in_threadpool(self._exports, request.path_params["id"])
        path = files.get(request.path_params["file"])
        if path is None or not path.is_file():
            return PlainTextResponse("There is no such file. It may have been removed.", 404)
        return FileResponse(path, filename=path.name, media_type="application/octet-stream")

    async def _serve(self, request: Request) -> Response:
        id = request.path_params["id"]
        if not self._is_right(request):
            return PlainTextResponse(GONE, 404)
        make_private_folder(self._folder)
        folder = Path(tempfile.mkdtemp(prefix="job-", dir=self._folder))
        path = folder / f"{id}.zip"
        try:
            await run_in_threadpool(self._export, id, path)
        except MultimodalError as error:
            shutil.rmtree(folder, ignore_errors=True)
            return PlainTextResponse(str(error), 409)
        remove = BackgroundTask(shutil.rmtree, folder, ignore_errors=True)
        return FileResponse(
            path, filename=path.name, media_type="application/zip", background=remove
        )
