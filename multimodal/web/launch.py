"""Start the page and the HTTP interface on one port, and end both cleanly."""

from __future__ import annotations

import logging
import os
import shutil
import signal
import socket
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any

from starlette.middleware import Middleware

from multimodal.access import Hosts, Logins
from multimodal.build import Program, build, fetch_missing
from multimodal.calibrate import calibrate_new_gpu
from multimodal.data_folder import lock_data_folder, prepare_data_folder
from multimodal.doctor.unused_gpu import unused_gpu
from multimodal.errors import MultimodalError, SettingsError
from multimodal.private_files import make_private_folder
from multimodal.settings import Settings, media_secret, page_secret
from multimodal.web.sessions import MAX_SESSIONS
from multimodal.weights import console_progress

if TYPE_CHECKING:
    from multimodal.web.border import AccessMiddleware
    from multimodal.web.page import Page
    from multimodal.web.studio.services import Services

log = logging.getLogger(__name__)

HERE = Path(__file__).parent
THREADS = 120
EVENTS = 200
"""That wait for a thread; each keeps its body in memory."""
SWEEP_EVERY_S = 3600.0
WAIT_S = 0.5
"""The main thread waits no longer at once: on Windows nothing interrupts a wait, so Ctrl-C is heard
between two of them (Python's issue 35935)."""
STOP_SIGNALS = ("SIGINT", "SIGTERM", "SIGBREAK")
"""By name: SIGBREAK, which Ctrl-Break sends, is Windows' alone."""
GRACE_S = 20.0
"""How long a reply goes on after the last page of its owner was closed: a reload, or a phone that
looks away, comes back sooner."""


def serve(settings: Settings) -> None:
    """Serve until interrupted. Raises the start's errors, each one sentence."""
    prepare_data_folder(settings)
    with lock_data_folder(settings) as note_address:
        port, hosts = _free_port(settings), _hosts(settings)
        note_address(f"http://{settings.host}:{port}")
        _serve_at(port, hosts, settings)


def _serve_at(port: int, hosts: Hosts, settings: Settings) -> None:
    calibrate_new_gpu(settings, _announce)
    unused = unused_gpu(settings)
    if unused is not None:
        _announce(f"{unused.sentence}\n\n    {unused.fix}\n")
    program = replace(build(settings), unused_gpu=unused)
    try:
        with _stopped_by_signals(program) as stopped, open_page(program, port, hosts):
            with console_progress() as show:
                fetch_missing(program, show, _announce)
            for sentence in program.fetching.errors.values():
                print(f"multimodal: {sentence}", file=sys.stderr)
            threading.Thread(target=_upgrade, args=[program], name="upgrades", daemon=True).start()
            _sweep(program)
            while not wait_for_event(stopped, SWEEP_EVERY_S):
                _sweep(program)
    finally:
        program.close()


def wait_for_event(event: threading.Event, timeout_s: float) -> bool:
    """`event.wait(timeout_s)` for the main thread: signals are handled meanwhile."""
    end_s = time.monotonic() + timeout_s
    while (left_s := end_s - time.monotonic()) > 0:
        if event.wait(min(left_s, WAIT_S)):
            return True
    return event.is_set()


def _upgrade(program: Program) -> None:
    """Fetch better models behind the page, and say in the terminal what became of them."""
    with console_progress() as show:
        program.upgrades.run(show, _announce)
    for upgrade in program.upgrades.all:
        title = program.catalog.title(upgrade.card)
        if upgrade.state == "in use":
            print(f"{title} answers from now on. {upgrade.why}", file=sys.stderr, flush=True)
        elif upgrade.state == "passed over":
            print(f"{title} is passed over. {upgrade.why}", file=sys.stderr, flush=True)


def _announce(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def _sweep(program: Program) -> None:
    try:
        program.sweep()
    except MultimodalError as error:
        log.warning("%s", error)


@contextmanager
def open_page(
    program: Program,
    port: int,
    hosts: Hosts,
    grace_s: float = GRACE_S,
    studio: Services | None = None,
) -> Iterator[None]:
    """The page, served on `port` while the context is open. `grace_s` is how long a reply goes on
    after its last page was closed; `studio` stands for what the studio asks of the program."""
    settings = program.settings
    _prepare_gradio(settings)
    from multimodal.web.border import AccessMiddleware
    from multimodal.web.page import Page
    from multimodal.web.theme import theme

    logins, head = settings.logins(), _head()
    secrets = page_secret(settings), media_secret(settings)
    page = Page(program, *secrets, _examples(), grace_s, studio)
    border = AccessMiddleware(hosts, Logins(logins), [settings.page_cache])
    page.blocks.queue(default_concurrency_limit=None, api_open=False, max_size=EVENTS)
    page.blocks.launch(
        server_name=settings.host,
        server_port=port,
        share=settings.share,
        auth=list(logins.items()) or None,
        auth_message="After five wrong passwords, wait half a minute before the next one.",
        prevent_thread_lock=True,
        quiet=True,
        theme=theme(),
        css_paths=[HERE / "page.css"],
        head=head,
        footer_links=[],
        run_history=False,
        enable_monitoring=False,
        max_file_size=program.media.limits.file_bytes,
        max_threads=THREADS,
        state_session_capacity=MAX_SESSIONS,
        allowed_paths=[],
        app_kwargs=_served(program, page, border, head),
        ssr_mode=False,
        pwa=False,
    )
    try:
        _check_border(page, border, hosts)
        _print_addresses(page.blocks.local_url, page.blocks.share_url, settings)
        yield
    finally:
        _close(page)


def _close(page: Page) -> None:
    """Stop what is streamed or answered, then the server, which waits for it."""
    from multimodal.api.shutdown_signals import shutdown_signals

    shutdown_signals(page.blocks.app).close()
    page.close()
    page.blocks.close(verbose=False)


@contextmanager
def _stopped_by_signals(program: Program) -> Iterator[threading.Event]:
    """An event that Ctrl-C, Ctrl-Break and SIGTERM set."""
    stopped = threading.Event()

    def end(_number: int, _frame: FrameType | None) -> None:
        program.fetching.stop.set()
        stopped.set()

    known = [getattr(signal, name) for name in STOP_SIGNALS if hasattr(signal, name)]
    before = {number: signal.signal(number, end) for number in known}
    try:
        yield stopped
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _prepare_gradio(settings: Settings) -> None:
    """What Gradio reads when it is imported: no outside calls, its cache in our data folder."""
    shutil.rmtree(settings.page_cache, ignore_errors=True)  # what a crash left
    make_private_folder(settings.page_cache)
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
    os.environ["GRADIO_TEMP_DIR"] = str(settings.page_cache)


def _served(program: Program, page: Page, border: AccessMiddleware, head: str) -> dict[str, Any]:
    """What Gradio's application has beside its own routes; `head` is the page's."""
    from multimodal.api import routes
    from multimodal.web.content_policy import ContentPolicy, inline_scripts
    from multimodal.web.page import UPLOADS_S
    from multimodal.web.request_limits import RequestLimits

    policy = Middleware(ContentPolicy, scripts=inline_scripts(head))
    limits, uploads = program.media.limits, program.settings.page_cache
    bounds = Middleware(RequestLimits, limits=limits, uploads=uploads, kept_s=float(sum(UPLOADS_S)))
    return {
        "routes": [*routes(program), *page.routes()],
        "middleware": [policy, bounds],
        "lifespan": border.lifespan,
    }


def _check_border(page: Page, border: AccessMiddleware, hosts: Hosts) -> None:
    """Raise RuntimeError unless the server stands behind its border; let its share link in."""
    if page.blocks.app.middleware_stack is not border:
        raise RuntimeError("the server does not stand behind its border")
    page.blocks.share = False  # a shared page would load its script from Gradio's server
    if page.blocks.share_url:
        hosts.add(page.blocks.share_url)


def _print_addresses(local: str | None, shared: str | None, settings: Settings) -> None:
    print(f"Multimodal chat is at {local}", flush=True)
    if shared:
        print(f"Anyone with this link can use it: {shared}", flush=True)
    elif settings.share:
        print("No public link could be made; the page is served on this machine.", flush=True)


def _hosts(settings: Settings) -> Hosts:
    """The names that are answered to. Raises SettingsError for an origin that is none."""
    try:
        return Hosts(settings.host, settings.allow_origin)
    except ValueError as error:
        raise SettingsError(f"--allow-origin: {error}.") from error


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


def _head() -> str:
    """What goes into the page's head. The panes' style sheets are here because Gradio rewrites the
    selectors of its own `css_paths`, and breaks those with a comma inside `:is()`."""
    sheets = (HERE / "chat.css", HERE / "studio" / "studio.css")
    sheet = "".join(path.read_text("utf-8") for path in sheets)
    return f"{(HERE / 'head.html').read_text('utf-8')}<style>\n{sheet}</style>\n"


def _examples() -> Path | None:
    folder = HERE.parent.parent / "examples"
    return folder if folder.is_dir() else None
