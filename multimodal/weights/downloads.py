"""Files fetched over HTTP that go on where they were cut off, and end when they are told to."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping
from concurrent.futures import Future, wait
from dataclasses import dataclass, field
from http import HTTPStatus
from pathlib import Path
from typing import Any

import httpx2 as httpx
from tenacity import (
    RetryCallState,
    Retrying,
    retry_if_exception,
    sleep_using_event,
    stop_after_attempt,
    wait_exponential,
)

from multimodal.errors import TurnStoppedError, WeightsError

ATTEMPTS = 5
LONGEST_WAIT_S = 10.0
LOOK_EVERY_S = 0.2
BUSY = {
    HTTPStatus.TOO_MANY_REQUESTS,
    HTTPStatus.BAD_GATEWAY,
    HTTPStatus.SERVICE_UNAVAILABLE,
    HTTPStatus.GATEWAY_TIMEOUT,
}


@dataclass(frozen=True, slots=True)
class StallTimeouts:
    """How long a server is waited for."""

    attempts: int = ATTEMPTS
    """In a row that bring nothing."""
    read_s: float = 20.0
    connect_s: float = 10.0
    answer_s: float | None = None
    """Until it answers a question; None leaves that to the timeouts and the number of attempts."""
    downloads: int = 2
    """Of a file that comes with another checksum."""

    @property
    def timeout(self) -> httpx.Timeout:
        return httpx.Timeout(self.read_s, connect=self.connect_s)


PATIENT = StallTimeouts()
BRISK = StallTimeouts(attempts=2, read_s=8.0, connect_s=4.0, answer_s=5.0, downloads=1)
"""For a server in whose place another one may be asked."""


class StalledError(WeightsError):
    """The server did not answer in time."""


class RefusedError(WeightsError):
    """The server answered, and not with the file."""

    def __init__(self, response: httpx.Response) -> None:
        super().__init__(f"the server answered with HTTP status {response.status_code}")
        self.response = response


class _CutError(Exception):
    """The connection ended before the file did."""


@dataclass(frozen=True)
class Download:
    """`url` on its way to the file `part`; never more than `size_bytes` are taken, and
    `seen(bytes)` is told as it grows."""

    client: httpx.Client
    url: str
    part: Path
    size_bytes: int
    seen: Callable[[int], None]
    stop: threading.Event | None
    wait_s: float = 1.0
    headers: Mapping[str, str] = field(default_factory=dict)
    patience: StallTimeouts = PATIENT

    def run(self) -> None:
        """Fetch it, going on where the file ends.

        A connection that is cut is made again, as long as several in a row bring something: a long
        file may be cut often. RefusedError when the server does not give the file, WeightsError
        when it was cut off too often, TurnStoppedError when `stop` was set.
        """
        most, grew_at = self._have(), 1

        def ended(state: RetryCallState) -> bool:
            nonlocal most, grew_at
            if (have := self._have()) > most:
                most, grew_at = have, state.attempt_number
            return state.attempt_number - grew_at >= self.patience.attempts - 1

        try:
            _retrying(ended, _may_pass, self.stop, self.wait_s)(self._fetch_rest)
        except (httpx.HTTPError, _CutError, ValueError) as error:
            cause = type(error).__name__ if isinstance(error, httpx.HTTPError) else error
            raise WeightsError(f"the download was cut off ({cause})") from error

    def _have(self) -> int:
        return self.part.stat().st_size if self.part.exists() else 0

    def _fetch_rest(self) -> None:
        raise_if_stopped(self.stop)
        have = self._have()
        asked = {**self.headers, "Accept-Encoding": "identity"}
        if have:
            asked["Range"] = f"bytes={have}-"
        how: Any = {"timeout": self.patience.timeout, "follow_redirects": True}
        with self.client.stream("GET", self.url, headers=asked, **how) as r:
            if r.status_code == HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE:
                return  # everything is there already; the checksum decides
            if r.is_error:
                raise RefusedError(r)
            if any(str(past.headers.get("location", "")).startswith("file:") for past in r.history):
                raise ValueError("the server sent it to a file of this machine")
            goes_on = r.status_code == HTTPStatus.PARTIAL_CONTENT
            have = have if goes_on else 0
            length = r.headers.get("Content-Length")
            whole = self.size_bytes if length is None else have + int(length)
            with self.part.open("ab" if goes_on else "wb") as file:
                for chunk in r.iter_raw():
                    raise_if_stopped(self.stop)
                    have += file.write(chunk)
                    if have > self.size_bytes:
                        raise ValueError("more came than the file has")
                    self.seen(have)
        if have < whole:
            raise _CutError(f"after {have} of {whole} bytes")


def retry_when_busy(
    stop: threading.Event | None, wait_s: float, attempts: int = ATTEMPTS
) -> Retrying:
    """For a question to a server that may be busy for the moment."""
    return _retrying(stop_after_attempt(attempts), _busy, stop, wait_s)


def _retrying(
    ended: Callable[[RetryCallState], bool],
    may_pass: Callable[[BaseException], bool],
    stop: threading.Event | None,
    wait_s: float,
) -> Retrying:
    return Retrying(
        stop=ended,
        wait=wait_exponential(multiplier=wait_s, max=LONGEST_WAIT_S),
        retry=retry_if_exception(may_pass),
        sleep=sleep_using_event(stop) if stop is not None else time.sleep,
        reraise=True,
    )


def until_stopped(
    work: Callable[[], None], stop: threading.Event | None, timeout_s: float | None = None
) -> None:
    """Run `work` in a thread and return as soon as `stop` is set: a server that says nothing blocks
    nobody. What is left running sees the same `stop` before it writes anything more.

    Raises TurnStoppedError when `stop` was set, StalledError when `timeout_s` are over: that also
    bounds what has no timeout of its own, such as the look-up of a name.
    """
    if stop is None and timeout_s is None:
        work()
        return
    done: Future[None] = Future()

    def run() -> None:
        try:
            work()
        except BaseException as error:
            done.set_exception(error)
        else:
            done.set_result(None)

    threading.Thread(target=run, name="weights", daemon=True).start()
    end_s = None if timeout_s is None else time.monotonic() + timeout_s
    while not wait([done], LOOK_EVERY_S).done:
        raise_if_stopped(stop)
        if end_s is not None and time.monotonic() > end_s:
            raise StalledError(f"it does not answer within {timeout_s:g} s")
    done.result()


def raise_if_stopped(stop: threading.Event | None) -> None:
    """Raise TurnStoppedError when `stop` was set."""
    if stop is not None and stop.is_set():
        raise TurnStoppedError("the download was stopped")


def _may_pass(error: BaseException) -> bool:
    """Whether trying again may help: the connection was cut, or the server is busy."""
    return _busy(error) or isinstance(error, httpx.TransportError | _CutError)


def _busy(error: BaseException) -> bool:
    response = getattr(error, "response", None)
    return response is not None and response.status_code in BUSY
