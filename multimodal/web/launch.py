"""Start the page and the HTTP interface on one port, and end both cleanly."""

from __future__ import annotations

import logging
import os
import shutil
import signal
import socket
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

from multimodal.build import Program, build, fetch_missing
from multimodal.errors import MultimodalError, SettingsError
from multimodal.settings import Settings, page_secret
from multimodal.weights import console_progress

log = logging.getLogger(__name__)

HERE = Path(__file__).parent
MAX_FILE = "50mb"
THREADS = 120
SWEEP_EVERY_S = 3600.0


def serve(settings: Settings) -> None:
    """Serve until interrupted. Raises the start's errors, each one sentence."""
    port = _free_port(settings)
    program = build(settings)
    try:
        with _stopped_by_signals(program) as stopped, _page(program, port):
            with console_progress() as show:
                fetch_missing(program, show, _announce)
            for sentence in program.fetching.errors.values():
                print(f"multimodal: {sentence}", file=sys.stderr)
            _sweep(program)
            while not stopped.wait(SWEEP_EVERY_S):
                _sweep(program)
    finally:
        program.close()


def _announce(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def _sweep(program: Program) -> None:
    try:
        program.sweep()
    except MultimodalError as error:
        log.warning("%s", error)


@contextmanager
def _page(program: Program, port: int) -> Iterator[None]:
    """The running server."""
    settings = program.settings
    shutil.rmtree(settings.page_cache, ignore_errors=True)  # what a crash left
    # Gradio reads these when it is imported: no outside calls, and its cache in our data folder.
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
    os.environ["GRADIO_TEMP_DIR"] = str(settings.page_cache)
    from multimodal.api import routes
    from multimodal.web.page import Page
    from multimodal.web.theme import theme

    logins = settings.logins()
    page = Page(program, page_secret(settings), _examples())
    page.blocks.queue(default_concurrency_limit=None, api_open=False)
    page.blocks.launch(
        server_name=settings.host,
        server_port=port,
        share=settings.share,
        auth=list(logins.items()) or None,
        prevent_thread_lock=True,
        quiet=True,
        theme=theme(),
        css_paths=[HERE / "page.css"],
        head=(HERE / "head.html").read_text("utf-8"),
        footer_links=[],
        run_history=False,
        enable_monitoring=False,
        max_file_size=MAX_FILE,
        max_threads=THREADS,
        allowed_paths=[],
        app_kwargs={"routes": routes(program)},
        ssr_mode=False,
        pwa=False,
    )
    print(f"Multimodal chat is at {page.blocks.local_url}", flush=True)
    if page.blocks.share_url:
        print(f"Anyone with this link can use it: {page.blocks.share_url}", flush=True)
    elif settings.share:
        print("No public link could be made; the page is served on this machine.", flush=True)
    try:
        yield
    finally:
        page.blocks.close(verbose=False)


@contextmanager
def _stopped_by_signals(program: Program) -> Iterator[threading.Event]:
    """An event that Ctrl-C and SIGTERM set."""
    stopped = threading.Event()

    def end(_number: int, _frame: FrameType | None) -> None:
        program.fetching.stop.set()
        stopped.set()

    before = {number: signal.signal(number, end) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield stopped
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _free_port(settings: Settings) -> int:
    """The port asked for, or one that is free for 0. Raises SettingsError when it is taken."""
    family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
    with socket.socket(family) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((settings.host, settings.port))
        except OSError as error:
            raise SettingsError(
                f"Port {settings.port} on {settings.host} cannot be used ({error.strerror}). "
                f"Choose another one: --port {settings.port + 1 if settings.port < 65535 else 0}."
            ) from error
        return int(probe.getsockname()[1])


def _examples() -> Path | None:
    folder = HERE.parent.parent / "examples"
    return folder if folder.is_dir() else None
