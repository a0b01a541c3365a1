"""The person's own Python package index, used as pip would use it, to fetch files that resume.

pip itself cannot continue a download that was cut off by the end of the program, so pip is only
asked how it is configured; `unearth` finds the link and httpx fetches it piece by piece.
"""

from __future__ import annotations

import ast
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from http import HTTPStatus
from pathlib import Path
from typing import cast

import httpx2 as httpx
from tenacity import (
    Retrying,
    retry_if_exception,
    sleep_using_event,
    stop_after_attempt,
    wait_exponential,
)
from unearth import PackageFinder
from unearth.errors import UnpackError
from unearth.fetchers import Fetcher, PyPIClient

from multimodal.errors import TurnStoppedError, WeightsError

PYPI = "https://pypi.org/simple/"
TIMEOUT = httpx.Timeout(20.0, connect=10.0)
ATTEMPTS = 5
BUSY = {
    HTTPStatus.TOO_MANY_REQUESTS,
    HTTPStatus.BAD_GATEWAY,
    HTTPStatus.SERVICE_UNAVAILABLE,
    HTTPStatus.GATEWAY_TIMEOUT,
}
SCHEMES = {"http", "https", "file"}


@dataclass(frozen=True, slots=True)
class IndexSettings:
    """Where packages are looked for; the words are pip's."""

    index_urls: tuple[str, ...] = (PYPI,)
    find_links: tuple[str, ...] = ()
    trusted_hosts: tuple[str, ...] = ()
    cert: str | None = None
    proxy: str | None = None


def pip_settings() -> IndexSettings:
    """The settings of the person's pip (files and environment), else of the environment.

    This is the one place outside settings.py that looks at the environment: these settings are
    pip's, not ours, and where pip is installed it reads them itself.
    """
    values = _pip_config() or {
        name: os.environ[variable]
        for name, variable in (
            ("index-url", "UV_DEFAULT_INDEX"),
            ("index-url", "PIP_INDEX_URL"),
            ("extra-index-url", "UV_INDEX"),
            ("extra-index-url", "PIP_EXTRA_INDEX_URL"),
            ("find-links", "UV_FIND_LINKS"),
            ("find-links", "PIP_FIND_LINKS"),
        )
        if variable in os.environ
    }
    indexes = (values.get("index-url", PYPI), *values.get("extra-index-url", "").split())
    offline = values.get("no-index", "") in {"1", "true", "yes", "on"}
    return IndexSettings(
        () if offline else indexes,
        tuple(values.get("find-links", "").split()),
        tuple(values.get("trusted-host", "").split()),
        values.get("cert"),
        values.get("proxy"),
    )


def _pip_config() -> dict[str, str]:
    command = [sys.executable, "-m", "pip", "config", "list"]
    try:
        told = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)  # noqa: S603
    except (OSError, subprocess.TimeoutExpired):
        return {}
    return parse_pip_config(told.stdout)


def parse_pip_config(listing: str) -> dict[str, str]:
    """The output of `pip config list` by option: global, then its `download` and environment."""
    by_section: dict[str, dict[str, str]] = {}
    for line in listing.splitlines():
        key, equals, value = line.partition("=")
        section, _, name = key.rpartition(".")
        if equals and section in {"global", "download", ":env:"}:
            by_section.setdefault(section, {})[name] = str(ast.literal_eval(value))
    merged: dict[str, str] = {}
    for section in ("global", "download", ":env:"):
        merged.update(by_section.get(section, {}))
    return merged


class PackageIndex:
    """Finds and fetches wheels; never installs or runs anything of them."""

    def __init__(self, settings: IndexSettings, wait_s: float = 1.0) -> None:
        self._settings = settings
        self._wait_s = wait_s
        verify: str | bool = settings.cert or True
        self._client = PyPIClient(
            trusted_hosts=settings.trusted_hosts,
            verify=verify,
            proxy=settings.proxy,
            timeout=TIMEOUT,
            follow_redirects=True,
        )

    def find(self, project: str, version: str) -> str:
        """The address of the wheel. Raises WeightsError where no index offers it."""
        finder = PackageFinder(
            cast("Fetcher", self._client),
            index_urls=self._settings.index_urls,
            find_links=self._settings.find_links,
            trusted_hosts=self._settings.trusted_hosts,
            only_binary=(project,),
        )
        try:
            found = finder.find_matches(f"{project}=={version}")
            links = [package.link.normalized for package in found if package.link.is_wheel]
        except (httpx.HTTPError, UnpackError, OSError, ValueError) as error:
            raise WeightsError(f"the package index cannot be reached ({error})") from error
        if not links:
            raise WeightsError("no package index that can be reached offers it")
        if httpx.URL(links[0]).scheme not in SCHEMES:
            raise WeightsError(f"its address {links[0]} is of a kind that is not fetched")
        return links[0]

    def fetch(
        self,
        url: str,
        part: Path,
        size_bytes: int,
        seen: Callable[[int], None],
        stop: threading.Event | None,
    ) -> None:
        """Fetch `url` to the file `part`, going on where it ends; `seen(bytes)` as it grows.

        Never more than `size_bytes` are taken.
        Raises WeightsError when it was cut off too often, TurnStoppedError when `stop` was set.
        """
        retrying = Retrying(
            stop=stop_after_attempt(ATTEMPTS),
            wait=wait_exponential(multiplier=self._wait_s, max=10),
            retry=retry_if_exception(_may_pass),
            sleep=sleep_using_event(stop) if stop is not None else time.sleep,
            reraise=True,
        )
        try:
            retrying(self._fetch_rest, url, part, size_bytes, seen, stop)
        except httpx.HTTPStatusError as error:
            status = error.response.status_code
            raise WeightsError(f"the index answered with HTTP status {status}") from error
        except (httpx.HTTPError, _CutError, ValueError) as error:
            cause = type(error).__name__ if isinstance(error, httpx.HTTPError) else error
            raise WeightsError(f"the download was cut off ({cause})") from error

    def _fetch_rest(
        self,
        url: str,
        part: Path,
        size_bytes: int,
        seen: Callable[[int], None],
        stop: threading.Event | None,
    ) -> None:
        if stop is not None and stop.is_set():
            raise TurnStoppedError("the download was stopped")
        have = part.stat().st_size if part.exists() else 0
        headers: Mapping[str, str] = {"Range": f"bytes={have}-"} if have else {}
        with self._client.stream(
            "GET", url, headers={"Accept-Encoding": "identity", **headers}
        ) as r:
            if r.status_code == HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE:
                return  # everything is there already; the checksum decides
            r.raise_for_status()
            if any(str(past.headers.get("location", "")).startswith("file:") for past in r.history):
                raise ValueError("the index sent it to a file of this machine")
            goes_on = r.status_code == HTTPStatus.PARTIAL_CONTENT
            have = have if goes_on else 0
            length = r.headers.get("Content-Length")
            whole = size_bytes if length is None else have + int(length)
            with part.open("ab" if goes_on else "wb") as file:
                for chunk in r.iter_raw():
                    if stop is not None and stop.is_set():
                        raise TurnStoppedError("the download was stopped")
                    have += file.write(chunk)
                    if have > size_bytes:
                        raise ValueError("more came than the package has")
                    seen(have)
        if have < whole:
            raise _CutError(f"after {have} of {whole} bytes")


def _may_pass(error: BaseException) -> bool:
    """Whether trying again may help: the connection was cut, or the index is busy."""
    if isinstance(error, httpx.HTTPStatusError):
        return error.response.status_code in BUSY
    return isinstance(error, httpx.TransportError | _CutError)


class _CutError(Exception):
    """The connection ended before the file did."""
