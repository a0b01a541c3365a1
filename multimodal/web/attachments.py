"""Which files a message may carry: those the page uploaded, and media of earlier messages."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from multimodal.errors import MediaError
from multimodal.media.ingestion import MediaFolder
from multimodal.messages import AudioPart, ImagePart
from multimodal.web.actions import KeptAttachment, Upload
from multimodal.web.media_addresses import MediaAddresses


class Attachments:
    """Finds the files that actions name. `uploads` is the folder that Gradio uploads into; its
    names hold the digest of the content, so who can name a file there knows what is in it."""

    def __init__(self, media: MediaFolder, addresses: MediaAddresses, uploads: Path) -> None:
        self._media = media
        self._addresses = addresses
        self._uploads = uploads.resolve()

    def find(self, file: Upload | KeptAttachment) -> tuple[Path, str]:
        """Path and name. Raises MediaError for a file that is gone or was never handed out."""
        if isinstance(file, Upload):
            path = self._upload(file.path)
            if path is None:
                raise MediaError(f"“{file.name}” was kept too long and is gone. Add it again.")
            return path, file.name
        if not self._addresses.is_key(file.key, file.sha256):
            raise MediaError(f"“{file.name}” is not yours to send. Add it again.")
        return self._media.path(ImagePart(file.sha256, file.media_type, 0, 0, file.name)), file.name

    def missing(self, paths: Sequence[str]) -> list[str]:
        """Those of the uploads `paths` that are no longer there."""
        return [path for path in paths if self._upload(path) is None]

    def describe(self, part: ImagePart | AudioPart) -> dict[str, str]:
        """A stored picture or recording as the page attaches it again. Raises MediaError where its
        file is gone."""
        self._media.path(part)
        return {
            "sha256": part.sha256,
            "media_type": part.media_type,
            "key": self._addresses.key(part.sha256),
            "name": part.name,
            "thumb": self._addresses.small(part) if isinstance(part, ImagePart) else "",
        }

    def _upload(self, path: str) -> Path | None:
        """Where an upload lies; None for anything outside the folder of uploads."""
        try:
            found = Path(path).resolve(strict=True)
        except (OSError, ValueError):
            return None
        return found if found.is_relative_to(self._uploads) and found.is_file() else None
