"""Weights from a repository of the Hugging Face hub.

huggingface_hub lists the repository, knows the person's endpoint, token and offline switch, and
names what went wrong; the bytes are fetched by `downloads`, which goes on in a later run. What the
repository was the first time is kept beside the files and stays in use, whatever is pushed later.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import httpx2 as httpx
from huggingface_hub import HfApi, get_session, hf_hub_url
from huggingface_hub.errors import (
    EntryNotFoundError,
    GatedRepoError,
    HfHubHTTPError,
    HFValidationError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from huggingface_hub.hf_api import RepoSibling
from huggingface_hub.utils import build_hf_headers, hf_raise_for_status
from pydantic import ValidationError

from multimodal.catalog.architectures import StrictModel
from multimodal.catalog.sources import HubSource
from multimodal.errors import WeightsError
from multimodal.weights.choice import (
    ListedFile,
    Shards,
    choose_files,
    choose_shards,
    filter_shard_index,
    index_among,
    shards_in,
)
from multimodal.weights.copies import cached_by_hub
from multimodal.weights.downloads import Download, RefusedError, retry_when_busy
from multimodal.weights.fetch_context import FORBIDDEN, PART, PINNED, FetchContext, Fetcher, File
from multimodal.weights.progress import silent

ASK_TIMEOUT_S = 20.0
REFUSED = {401, 403}


class Pin(StrictModel):
    """A repository as it was listed: the commit, and every file of it."""

    repo: str
    revision: str | None
    commit: str
    files: tuple[ListedFile, ...]
    shards: Shards | None = None
    """Of the index, where the card asks for some of the tensors; empty where there is none."""


@dataclass(frozen=True)
class Hub(Fetcher):
    """The fetcher of a card whose source is a repository of the hub."""

    source: HubSource
    api: Callable[[], HfApi]
    retry_wait_s: float
    cache: Path | None = None

    def query_bytes(self, context: FetchContext) -> int:
        return sum(file.size_bytes or 0 for file in self._chosen(self._pin(context)))

    def required_files(self, context: FetchContext) -> tuple[File, ...]:
        pin = self._pin(context)
        wanted = self._chosen(pin)
        if pin != self._pinned(context):
            (context.folder / PINNED).write_text(pin.model_dump_json(), "utf-8")
        if self.source.weights and pin.shards and (index := index_among(wanted, self.source)):
            path = context.folder / index.path
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(filter_shard_index(pin.shards, self.source))
        return wanted

    def local_copies(self, context: FetchContext, file: File) -> Iterator[Path]:
        """What huggingface_hub itself fetched of the same commit, for another program."""
        if pin := self._pinned(context):
            yield from cached_by_hub(pin.repo, file.path, pin.commit, self.cache)

    def fetch(self, context: FetchContext, missing: tuple[File, ...]) -> None:
        pin = self._pinned(context)
        if pin is None:
            raise WeightsError(f"{context.folder / PINNED} was removed meanwhile; start again")
        with self._sentences(context, pin.commit):
            for file in missing:
                part = context.folder / f"{file.path}{PART}"
                part.parent.mkdir(parents=True, exist_ok=True)
                self._fetch(context, pin.commit, file, part)
                part.replace(context.folder / file.path)
                context.finish_file(file.size_bytes or 0)

    def _fetch(self, context: FetchContext, commit: str, file: File, part: Path) -> None:
        api, size = self.api(), file.size_bytes or 0
        url = hf_hub_url(self.source.repo, file.path, revision=commit, endpoint=api.endpoint)
        download = hub_download(api, url, part, size, context, self.retry_wait_s)
        try:
            right = context.fetch(part, file, download.run)
        except RefusedError:
            raise
        except WeightsError as error:
            raise WeightsError(
                f"{file.path} of {self.source.repo} is missing: {error}. Connect, then start "
                "again: what was fetched is kept"
            ) from error
        if not right:
            raise WeightsError(
                f"{file.path} of {self.source.repo} came twice and was not what the hub lists (its "
                "checksum differs); start again later, or use another endpoint (HF_ENDPOINT)"
            )

    # ------------------------------------------------------------ what the repository is

    def _pin(self, context: FetchContext) -> Pin:
        """What the repository was the first time, or is now."""
        pin = self._pinned(context)
        if pin is not None and (pin.shards is not None or not self.source.weights):
            return pin
        if context.offline:
            raise WeightsError(FORBIDDEN)
        pin = pin or self._listed(context)
        if not self.source.weights:
            return pin
        return pin.model_copy(update={"shards": self._shards(context, pin)})

    def _chosen(self, pin: Pin) -> tuple[File, ...]:
        files = choose_files(pin.files, self.source)
        if self.source.weights and pin.shards and (index := index_among(files, self.source)):
            return choose_shards(files, index, pin.shards, self.source)
        return files

    def _shards(self, context: FetchContext, pin: Pin) -> Shards:
        """What the repository's index says; nothing where its weights are one file."""
        index = index_among(choose_files(pin.files, self.source), self.source)
        if index is None:
            return {}
        # How far the weights are is told once their size is known.
        unseen = replace(context, on_progress=silent)
        with TemporaryDirectory() as folder, self._sentences(context, pin.commit):
            path = Path(folder) / "index"
            self._fetch(unseen, pin.commit, index, path)
            return shards_in(path.read_bytes(), index, self.source)

    def _pinned(self, context: FetchContext) -> Pin | None:
        """What was recorded here, if it is of this repository and revision."""
        try:
            pin = Pin.model_validate_json((context.folder / PINNED).read_text("utf-8-sig"))
        except (OSError, ValidationError, UnicodeDecodeError):
            return None
        asked = (self.source.repo, self.source.revision)
        return pin if (pin.repo, pin.revision) == asked else None

    def _listed(self, context: FetchContext) -> Pin:
        """What the hub says now."""
        source = self.source
        with self._sentences(context, None):
            told = retry_when_busy(context.stop, self.retry_wait_s)(
                self.api().model_info,
                source.repo,
                revision=source.revision or "main",
                files_metadata=True,
                timeout=ASK_TIMEOUT_S,
            )
            files = tuple(_listed(sibling) for sibling in told.siblings or ())
            facts = {"repo": source.repo, "revision": source.revision, "commit": told.sha}
            return Pin.model_validate(facts | {"files": files})

    # ------------------------------------------------------------ words

    @contextmanager
    def _sentences(self, context: FetchContext, commit: str | None) -> Iterator[None]:
        try:
            yield
        except (RefusedError, HfHubHTTPError) as error:
            raise WeightsError(
                self._refusal(translate_hub_error(error), context, commit)
            ) from error
        except OfflineModeIsEnabled as error:
            raise WeightsError("HF_HUB_OFFLINE is set and forbids fetching them") from error
        except httpx.HTTPError as error:
            raise WeightsError(
                f"the hub cannot be reached at {self.api().endpoint} ({type(error).__name__}); "
                "connect, or set HF_ENDPOINT, then start again"
            ) from error
        except HFValidationError as error:
            raise WeightsError(f"'{self.source.repo}' is no repository's name") from error
        except (ValueError, TypeError, KeyError) as error:
            raise WeightsError(
                f"what answers at {self.api().endpoint} is not a hub; log in to your network, or "
                "correct HF_ENDPOINT"
            ) from error

    def _refusal(
        self, error: HfHubHTTPError | RefusedError, context: FetchContext, commit: str | None
    ) -> str:
        repo, status = self.source.repo, error.response.status_code
        missing = isinstance(error, RepositoryNotFoundError)
        if isinstance(error, GatedRepoError) or (
            self.source.gated and (missing or status in REFUSED)
        ):
            return (
                f"{repo} is gated; open https://huggingface.co/{repo}, accept its licence, log in "
                "with `hf auth login` or set HF_TOKEN, then start again"
            )
        if missing:
            return (
                f"the hub has no repository {repo}, or it is private; correct its card, or log in "
                "with `hf auth login`"
            )
        if isinstance(error, RevisionNotFoundError | EntryNotFoundError) and commit is not None:
            return (
                f"the hub no longer has all files of {repo} at the commit {commit[:12]}; remove "
                f"{context.folder} to take those of today"
            )
        if isinstance(error, RevisionNotFoundError):
            return f"{repo} has no revision '{self.source.revision or 'main'}'; correct its card"
        if status in REFUSED:
            return (
                f"the hub refuses to hand out {repo} (HTTP status {status}); log in again with "
                "`hf auth login`, or correct HF_TOKEN"
            )
        return f"the hub answered with HTTP status {status}; start again later"


def _listed(sibling: RepoSibling) -> ListedFile:
    checksum = None
    if sibling.lfs is not None:
        checksum = f"sha256:{sibling.lfs.sha256}"
    elif sibling.blob_id is not None:
        checksum = f"git:{sibling.blob_id}"
    return ListedFile(path=sibling.rfilename, size_bytes=sibling.size, checksum=checksum)


def hub_download(
    api: HfApi,
    url: str,
    part: Path,
    size_bytes: int,
    context: FetchContext,
    wait_s: float,
    **more: Any,
) -> Download:
    """From the hub of `api`, as the person who is logged in there."""
    headers = build_hf_headers(token=api.token)
    how = get_session(), url, part, size_bytes, context.report_bytes, context.stop, wait_s, headers
    return Download(*how, **more)


def translate_hub_error(error: HfHubHTTPError | RefusedError) -> HfHubHTTPError | RefusedError:
    """What the hub meant by its refusal."""
    if isinstance(error, HfHubHTTPError):
        return error
    try:
        hf_raise_for_status(error.response)
    except HfHubHTTPError as told:
        return told
    return error
