"""What strangers, other sites and other people may not do, tried against the running program."""

from __future__ import annotations

import json
import re
import secrets
import socket
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler
from itertools import count
from pathlib import Path
from typing import Any

import httpx2 as httpx
import pytest
from browser import Person
from conftest import WEIGHTS, Server, running_app
from local_server import running_server
from playwright.sync_api import Browser

from multimodal.build import Program
from multimodal.chats.store import Store
from multimodal.messages import Message, TextPart

EVIL = "https://evil.example"
GRADIO = "/gradio_api"
WAY_OUT = "--allow-origin"
DIGITS = "7" * 5000


@pytest.fixture(scope="module")
def app(all_weights: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server without logins, of this file alone: some of what is tried here lasts."""
    with running_app(tmp_path_factory.mktemp("border")) as server:
        yield server


@pytest.fixture(scope="module")
def closed(all_weights: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server with the logins of ann and bob."""
    folder = tmp_path_factory.mktemp("closed")
    (folder / "logins").write_text("ann:right\nbob:right too\n", "utf-8")
    with running_app(folder / "data", "--auth-file", str(folder / "logins")) as server:
        yield server


def get_raw(app: Server, path: str, **headers: str) -> tuple[int, str]:
    """Status and text of a GET whose path is sent as it stands; clients tidy theirs up."""
    lines = [f"GET {path} HTTP/1.1", *(f"{name}: {value}" for name, value in headers.items())]
    host, port = app.url.removeprefix("http://").split(":")
    if "Host" not in headers:
        lines.append(f"Host: {host}:{port}")
    with socket.create_connection((host, int(port)), timeout=30) as raw:
        raw.sendall("\r\n".join([*lines, "Connection: close", "", ""]).encode())
        reply = b"".join(iter(lambda: raw.recv(65536), b"")).decode("utf-8", "replace")
    return int(reply.split()[1]), reply.partition("\r\n\r\n")[2]


# ------------------------------------------------------------ files and routes


@pytest.mark.parametrize(
    "address",
    [
        "http://evil.example/x.png",
        "HTTPS://evil.example/x.png",
        "https%3A%2F%2Fevil.example/x.png",
        "http:/evil.example/x.png",
        "ftp://evil.example/x.png",
        "file:///etc/hostname",
        "//evil.example/x.png",
        "%2F%2Fevil.example/x.png",
        "\\\\evil.example\\x.png",
        "%5C%5Cevil.example%5Cx.png",
        "evil.example/x.png",
        "data:text/html,hello",
        "/%0Ahttp://evil.example/x.png",
        "%20http://evil.example/x.png",
    ],
)
def test_an_address_in_place_of_a_file_is_refused(app: Server, address: str) -> None:
    for route in ("file=", "file/", "proxy="):
        status, text = get_raw(app, f"{GRADIO}/{route}{address}")
        assert (status, "There is no" in text) == (404, True)


def test_only_what_the_page_shows_is_served(app: Server, examples: Path) -> None:
    media = app.data / "media"
    hidden = [
        "/etc/passwd",
        app.data / "secret",
        app.data / "conversations.sqlite3",
        f"{media}/../secret",
        f"{media}/%2e%2e/secret",
        media,
        WEIGHTS,
        Path(__file__),
        examples.parent / "app.py",
        examples / "chelsea.jpg",
    ]
    for path in hidden:
        assert get_raw(app, f"{GRADIO}/file={path}")[0] in {403, 404}, path
    picture = (examples / "chelsea.jpg").read_bytes()
    sent = httpx.post(f"{app.url}{GRADIO}/upload", files={"files": ("chelsea.jpg", picture)})
    assert get_raw(app, f"{GRADIO}/file={sent.json()[0]}")[0] == 200


def test_a_link_out_of_a_shown_folder_is_not_followed(app: Server) -> None:
    link = app.data / "page-cache" / "link.png"
    link.parent.mkdir(exist_ok=True)
    link.symlink_to(app.data / "secret")
    assert get_raw(app, f"{GRADIO}/file={link}")[0] in {403, 404}


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("POST", f"{GRADIO}/process_recording"),
        ("POST", f"{GRADIO}/run/predict"),
        ("POST", f"{GRADIO}/api/predict"),
        ("POST", f"{GRADIO}/call/predict"),
        ("POST", f"{GRADIO}/call/v2/predict"),
        ("GET", f"{GRADIO}/info"),
        ("GET", f"{GRADIO}/openapi.json"),
        ("GET", f"{GRADIO}/token"),
        ("GET", f"{GRADIO}/user"),
        ("GET", f"{GRADIO}/deep_link?session_hash=x"),
        ("GET", f"{GRADIO}/queue/status"),
        ("GET", f"{GRADIO}/runs"),
        ("POST", f"{GRADIO}/stream/x"),
        ("POST", f"{GRADIO}/vibe-edit"),
        ("GET", f"{GRADIO}/vibe-code"),
        ("GET", f"{GRADIO}/dev/reload"),
        ("GET", "/openapi.json"),
        ("GET", "/docs"),
        ("GET", "/config"),
        ("GET", "/monitoring"),
        ("GET", "/monitoring/summary"),
        ("GET", "/svelte/x.js"),
        ("GET", "/run"),
        ("PUT", "/"),
        ("TRACE", "/"),
    ],
)
def test_routes_that_the_page_does_not_use_are_closed(app: Server, method: str, path: str) -> None:
    assert httpx.request(method, app.url + path, timeout=30).status_code == 404


def test_every_route_of_the_installed_gradio_was_judged(made: Program) -> None:
    from gradio.routes import App

    from multimodal.web.page import Page
    from multimodal.web.route_table import ALLOWED, CLOSED

    server = App.create_app(Page(made, "secret", "key").blocks)
    found = set(server.openapi()["paths"])
    found |= {route.path for route in server.routes if hasattr(route, "path")}

    def plain(path: str) -> str:
        return path.rstrip("/").replace(":path}", "}").replace("{path_or_url}", "{path}")

    assert len(found) > 50, "the routes are listed in another way"
    judged = {plain(row.path) for row in ALLOWED} | {plain(path) for path in CLOSED}
    assert {plain(path) for path in found} <= judged
    assert not {plain(row.path) for row in ALLOWED} & {plain(path) for path in CLOSED}


# ------------------------------------------------------------ other sites


ROUTES = [
    ("GET", "/"),
    ("POST", f"{GRADIO}/queue/join"),
    ("GET", f"{GRADIO}/queue/data?session_hash=x"),
    ("POST", f"{GRADIO}/upload"),
    ("GET", f"{GRADIO}/file=/etc/passwd"),
    ("POST", "/login"),
    ("GET", "/logout"),
    ("GET", "/health"),
    ("GET", "/metrics"),
    ("GET", "/v1/models"),
    ("POST", "/v1/chat/completions"),
]


@pytest.mark.parametrize(("method", "path"), ROUTES)
def test_other_sites_are_refused_on_every_route(
    app: Server, closed: Server, method: str, path: str
) -> None:
    for server in (app, closed):
        port = server.url.rpartition(":")[2]
        for headers in (
            {"Origin": EVIL},
            {"Origin": "null"},
            {"Origin": "http://127.0.0.1:1"},
            {"Origin": f"http://evil.example:{port}"},
            {"Host": f"evil.example:{port}"},
            {"Host": f"evil.example:{port}", "Origin": f"http://evil.example:{port}"},
            {"Host": f"127.0.0.1:{DIGITS}"},
            {"Host": "127.0.0.1:65536"},
            {"X-Forwarded-Host": "evil.example"},
            {"X-Forwarded-Host": f"127.0.0.1:{DIGITS}"},
            {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "no-cors"},
            {"Sec-Fetch-Site": "same-site", "Sec-Fetch-Mode": "cors"},
        ):
            reply = httpx.request(method, server.url + path, headers=headers, timeout=30)
            assert (reply.status_code, WAY_OUT in reply.text) == (403, True), headers
            assert not [name for name in reply.headers if name.startswith("access-control")]


@pytest.mark.parametrize("value", ["7" * 5000, f"bytes={DIGITS}-", f"http://[::1]:{DIGITS}"])
@pytest.mark.parametrize("path", ["/", "/static/img/logo.svg", "/health", "/v1/models"])
def test_no_number_of_a_header_or_a_query_is_too_long_to_be_answered(
    app: Server, path: str, value: str
) -> None:
    for name in (
        "Host",
        "Origin",
        "Range",
        "If-Range",
        "If-Modified-Since",
        "X-Forwarded-Host",
        "X-Forwarded-Proto",
        "X-Forwarded-Port",
        "X-Forwarded-For",
        "Accept-Language",
        "Authorization",
        "Cookie",
    ):
        assert get_raw(app, path, **{name: value})[0] < 500, name
    assert get_raw(app, f"{path}?session_hash={value}&limit={value}")[0] < 500


@pytest.mark.parametrize("path", ["/v1/chat/completions", f"{GRADIO}/queue/join", "/login"])
def test_a_preflight_says_what_its_post_will(app: Server, path: str) -> None:
    asked = {"Origin": EVIL, "Access-Control-Request-Method": "POST"}
    preflight = httpx.options(app.url + path, headers=asked)
    post = httpx.post(app.url + path, headers={"Origin": EVIL}, json={})
    assert (preflight.status_code, post.status_code) == (403, 403)
    assert preflight.json() == post.json()


def test_refusals_below_v1_have_the_form_of_openai(app: Server) -> None:
    error = httpx.get(f"{app.url}/v1/models", headers={"Origin": EVIL}).json()["error"]
    assert (error["type"], EVIL in error["message"]) == ("permission_error", True)
    long = httpx.get(f"{app.url}/v1/models", headers={"Origin": EVIL + "x" * 30_000})
    assert len(long.text) < 1000
    assert len(httpx.get(f"{app.url}/v1/{'x' * 30_000}").text) < 1000
    assert len(httpx.get(f"{app.url}/{'x' * 30_000}").text) < 1000


def test_nobody_else_may_read_what_our_own_pages_get(app: Server) -> None:
    for path in ("/", "/v1/models", f"{GRADIO}/app_id", "/health"):
        reply = httpx.get(app.url + path, headers={"Origin": app.url})
        assert reply.status_code == 200
        assert not [name for name in reply.headers if name.startswith("access-control")]
        assert reply.headers["cross-origin-resource-policy"] == "same-origin"


def test_a_link_on_another_site_opens_the_page_and_nothing_else(app: Server) -> None:
    visit = {
        "Sec-Fetch-Site": "cross-site",
        "Sec-Fetch-Mode": "navigate",
        "Sec-Fetch-Dest": "document",
    }
    assert httpx.get(app.url, headers=visit).status_code == 200
    assert httpx.get(f"{app.url}/logout", headers=visit).status_code == 403
    framed = visit | {"Sec-Fetch-Dest": "iframe"}
    assert httpx.get(app.url, headers=framed).status_code == 403


def test_an_address_that_was_allowed_is_answered_to(all_weights: Path, tmp_path: Path) -> None:
    own = "https://chat.example"
    with running_app(tmp_path, "--allow-origin", own, "--allow-origin", "http://nas:80") as app:
        proxied = {"Host": "chat.example", "Origin": own}
        assert httpx.get(app.url, headers=proxied).status_code == 200
        assert httpx.get(app.url, headers={"Host": "nas"}).status_code == 200
        called = httpx.get(f"{app.url}/v1/models", headers={"Origin": own})
        assert (called.status_code, called.headers["access-control-allow-origin"]) == (200, own)
        assert "access-control-allow-credentials" not in called.headers
        asked = {"Origin": own, "Access-Control-Request-Method": "POST"}
        preflight = httpx.options(f"{app.url}/v1/chat/completions", headers=asked)
        told = preflight.headers["access-control-allow-origin"]
        assert (preflight.status_code, told) == (204, own)
        page = httpx.get(app.url, headers={"Origin": own})
        assert "access-control-allow-origin" not in page.headers
        assert httpx.get(app.url, headers={"Origin": EVIL}).status_code == 403
        over_tls = httpx.get(app.url, headers={"Host": "chat.example"})
        assert "; secure" in over_tls.headers["set-cookie"].lower()


# ------------------------------------------------------------ what browsers may do with replies


def policy(reply: httpx.Response) -> dict[str, str]:
    parts = reply.headers["content-security-policy"].split("; ")
    return {name: rest for name, _, rest in (part.partition(" ") for part in parts)}


def test_the_page_brings_a_policy_that_names_this_server_alone(app: Server, closed: Server) -> None:
    for server in (app, closed):
        reply = httpx.get(server.url)
        told = policy(reply)
        assert told["default-src"] == "'self'"
        assert "'unsafe-inline'" not in told["script-src"]
        assert told["frame-ancestors"] == told["object-src"] == "'none'"
        assert told["form-action"] == told["base-uri"] == "'self'"
        known = {"'self'", "'none'", "data:", "blob:", "'unsafe-inline'", "'unsafe-eval'"}
        sources = {source for value in told.values() for source in value.split()}
        assert all(s in known or s.startswith("'sha256-") for s in sources)
        assert reply.headers["x-content-type-options"] == "nosniff"
        assert reply.headers["referrer-policy"] == "same-origin"
        assert reply.headers["cross-origin-opener-policy"] == "same-origin"
        assert reply.headers["x-frame-options"] == "DENY"


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("page.html", "<script>alert(1)</script>"),
        ("drawing.svg", "<svg xmlns='http://www.w3.org/2000/svg'><script>alert(1)</script></svg>"),
        ("feed.xml", "<x:script xmlns:x='http://www.w3.org/1999/xhtml'>alert(1)</x:script>"),
    ],
)
def test_what_was_uploaded_never_runs(app: Server, name: str, content: str) -> None:
    sent = httpx.post(f"{app.url}{GRADIO}/upload", files={"files": (name, content.encode())})
    if sent.status_code != 200:
        return  # refused for what it is
    reply = httpx.get(f"{app.url}{GRADIO}/file={sent.json()[0]}")
    assert reply.headers["content-type"].partition(";")[0] == "application/octet-stream"
    assert reply.headers["content-disposition"].startswith("attachment")
    assert "sandbox" in reply.headers["content-security-policy"]
    assert reply.headers["x-content-type-options"] == "nosniff"


@dataclass
class Site:
    """Another site, on a port of this machine; remembers what it was asked for."""

    url: str = ""
    asked: list[str] = field(default_factory=list)


@pytest.fixture
def site() -> Iterator[Site]:
    found = Site()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            found.asked.append(self.path)
            self.send_response(200)
            self.send_header("Content-Type", "text/html")
            self.end_headers()
            target = self.path.partition("?")[2]
            self.wfile.write(f"<iframe src='{target}'></iframe><p>elsewhere</p>".encode())

        do_POST = do_GET  # noqa: N815

    with running_server(Handler) as found.url:
        yield found


INTRUSION = """(url) => {
  const made = document.createElement("div");
  made.innerHTML = `
    <img src="${url}/img"><img srcset="${url}/srcset 1x"><audio src="${url}/audio"></audio>
    <video src="${url}/video" poster="${url}/poster"></video>
    <div style="background: url(${url}/css)">x</div><iframe src="${url}/frame"></iframe>
    <object data="${url}/object"></object><link rel="stylesheet" href="${url}/sheet">
    <svg><image href="${url}/svg" /></svg>
    <img src=x onerror="window.intruded = 'handler'">
    <form action="${url}/form" method="post" id="theirs"><button>ok</button></form>`;
  document.body.append(made);
  const inline = document.createElement("script");
  inline.textContent = "window.intruded = 'inline'";
  document.body.append(inline);
  const script = document.createElement("script");
  script.src = `${url}/script`;
  document.body.append(script);
  navigator.sendBeacon(`${url}/beacon`, "x");
  document.getElementById("theirs").submit();
  return fetch(`${url}/fetch`, {mode: "no-cors"}).then(() => "fetched", () => "refused");
}"""


def test_nothing_that_gets_into_the_page_runs_or_reaches_another_site(
    browser: Browser, app: Server, site: Site
) -> None:
    with closing(Person(browser, app.url)) as person:
        assert person.faults == []
        assert person.page.evaluate(INTRUSION, site.url) == "refused"
        person.page.wait_for_timeout(1500)
        assert person.page.evaluate("window.intruded") is None
        assert site.asked == []
        assert person.page.url.startswith(app.url)


def test_no_other_site_frames_the_page(browser: Browser, app: Server, site: Site) -> None:
    with browser.new_page() as page:
        page.goto(f"{site.url}/?{app.url}/")
        page.wait_for_timeout(1500)
        assert "elsewhere" in page.inner_text("body")
        assert not any(frame.query_selector("#composer") for frame in page.frames)


# ------------------------------------------------------------ logins

addresses = count(1)


def stranger(server: Server) -> httpx.Client:
    """Somebody at an address of their own, as a proxy on this machine would say."""
    number = next(addresses)
    headers = {"X-Forwarded-For": f"198.51.{number // 250}.{number % 250}", "Origin": server.url}
    return httpx.Client(base_url=server.url, headers=headers, timeout=60)


def log_in(client: httpx.Client, user: str, password: str) -> httpx.Response:
    return client.post("/login", data={"username": user, "password": password})


def test_the_login_cookie_is_closed_to_scripts_and_to_other_sites(closed: Server) -> None:
    with stranger(closed) as client:
        plain = log_in(client, "ann", "right").headers.get_list("set-cookie")
        client.headers["X-Forwarded-Proto"] = "https"
        client.headers["Origin"] = closed.url.replace("http:", "https:")
        over_tls = log_in(client, "ann", "right").headers.get_list("set-cookie")
    assert len(plain) == len(over_tls) == 2
    for cookie in plain + over_tls:
        assert "samesite=strict" in cookie.lower()
        assert "httponly" in cookie.lower()
    assert all("; secure" in cookie.lower() for cookie in over_tls)


def test_without_a_login_the_page_answers_nothing(closed: Server, examples: Path) -> None:
    with stranger(closed) as client:
        body = {"session_hash": "x", "fn_index": 0, "data": []}
        for reply in (
            client.post(f"{GRADIO}/queue/join", json=body),
            client.get(f"{GRADIO}/queue/data", params={"session_hash": "x"}),
            client.post(f"{GRADIO}/cancel", json=body | {"event_id": "x"}),
            client.post(f"{GRADIO}/reset", json={"event_id": "x"}),
            client.get(f"{GRADIO}/heartbeat/x"),
            client.post(f"{GRADIO}/upload", files={"files": b"x"}),
            client.get(f"{GRADIO}/file={examples / 'chelsea.jpg'}"),
            client.get("/metrics"),
            client.get("/v1/models"),
        ):
            assert reply.status_code == 401, reply.request.url
        assert "Conversation" not in client.get("/").text


def test_wrong_passwords_are_slowed_down_and_logged(all_weights: Path, tmp_path: Path) -> None:
    with running_app(tmp_path, "--auth", "ann:right") as server:
        for send in (try_form, try_bearer, try_basic):
            with stranger(server) as client, ThreadPoolExecutor(16) as many:
                wrong = [many.submit(send, client, "wrong-secret") for _ in range(60)]
                assert [answer.result().status_code for answer in wrong].count(429) == 55
                refused = send(client, "right")
                assert refused.status_code == 429, "the wait is for everybody there"
                wait_s = int(refused.headers["retry-after"])
                assert 0 < wait_s <= 300
                assert f"Wait {wait_s} seconds" in refused.text
            with stranger(server) as client:
                assert send(client, "right").status_code == 200, "nobody is locked out elsewhere"
        server.process.terminate()
        log = server.process.communicate(timeout=30)[0]
    assert log.count("wrong login for 'ann'") == 15
    assert "secret" not in log


def try_form(client: httpx.Client, password: str) -> httpx.Response:
    return log_in(client, "ann", password)


def try_bearer(client: httpx.Client, password: str) -> httpx.Response:
    return client.get("/v1/models", headers={"Authorization": f"Bearer ann:{password}"})


def try_basic(client: httpx.Client, password: str) -> httpx.Response:
    return client.get("/v1/models", auth=("ann", password))


HALF_CHARACTERS = (
    b'--x\r\nContent-Disposition: form-data; name="username"\r\n\r\nann\r\n'
    b'--x\r\nContent-Disposition: form-data; name="password"\r\n\r\n\\ud800\r\n--x--\r\n'
)
HALF_CHARACTERS_FORM = {"Content-Type": "multipart/form-data; boundary=x; charset=unicode_escape"}


def test_a_broken_login_form_is_refused_in_a_sentence(closed: Server) -> None:
    with stranger(closed) as client:
        form = {"Content-Type": "multipart/form-data; boundary=x"}
        for reply in (
            client.post("/login", content=b"no form", headers=form),
            client.post("/login", json={"username": "ann", "password": "right"}),
            client.post("/login", data={"username": "ann"}),
        ):
            assert (reply.status_code, "login form" in reply.json()["detail"]) == (400, True)
        assert log_in(client, "ann", "x" * 100_000).status_code == 413
        half = client.post("/login", content=HALF_CHARACTERS, headers=HALF_CHARACTERS_FORM)
        assert (half.status_code, "UTF-8" in half.json()["detail"]) == (400, True)


def test_a_picture_does_not_log_anybody_out(closed: Server) -> None:
    with stranger(closed) as client:
        del client.headers["Origin"]
        assert log_in(client, "bob", "right too").status_code == 200
        for headers in (
            {"Sec-Fetch-Dest": "image", "Sec-Fetch-Site": "same-origin"},
            {"Accept": "image/avif,image/webp,*/*"},
        ):
            assert client.get("/logout", headers=headers).status_code == 403
        assert client.get(f"{GRADIO}/file=/nothing").status_code == 404
        opened = {"Sec-Fetch-Dest": "document", "Sec-Fetch-Site": "none"}
        assert client.get("/logout", headers=opened).status_code == 302
        assert client.get(f"{GRADIO}/file=/nothing").status_code == 401


# ------------------------------------------------------------ sessions and owners


def event(session: str) -> dict[str, Any]:
    return {"session_hash": session, "fn_index": 0, "data": [], "event_id": "x"}


def test_a_session_is_of_the_login_that_began_it(closed: Server) -> None:
    session = secrets.token_hex(5)
    with stranger(closed) as ann, stranger(closed) as bob:
        assert log_in(ann, "ann", "right").status_code == 200
        assert log_in(bob, "bob", "right too").status_code == 200
        begun = ann.post(f"{GRADIO}/queue/join", json=event(session))
        assert begun.status_code not in {401, 403}
        assert_session_is_closed_to(bob, session)


def test_a_session_is_of_the_browser_that_began_it(app: Server) -> None:
    session = secrets.token_hex(5)
    with stranger(app) as ann, stranger(app) as bob, stranger(app) as nobody:
        ann.get("/")
        bob.get("/")
        begun = ann.post(f"{GRADIO}/queue/join", json=event(session))
        assert begun.status_code not in {401, 403}
        assert_session_is_closed_to(bob, session)
        assert "cookie" in nobody.post(f"{GRADIO}/queue/join", json=event("new")).json()["detail"]


def test_events_are_ended_by_who_began_them(app: Server) -> None:
    session = secrets.token_hex(5)
    with stranger(app) as ann:
        ann.get("/")
        assert ann.post(f"{GRADIO}/cancel", json=event(session)).json() == {"success": True}
        assert ann.post(f"{GRADIO}/reset", json={"event_id": "x"}).json() == {"success": True}


def test_events_whose_answers_nobody_fetches_are_refused_until_they_are_read(app: Server) -> None:
    session = secrets.token_hex(5)
    with stranger(app) as ann, stranger(app) as bob:
        ann.get("/")
        bob.get("/")
        body = tick(app, session)
        codes = [ann.post(f"{GRADIO}/queue/join", json=body).status_code for _ in range(100)]
        assert codes == [200] * 20 + [429] * 80
        refused = ann.post(f"{GRADIO}/queue/join", json=body)
        assert "Reload" in refused.json()["detail"]
        assert bob.post(f"{GRADIO}/queue/join", json=tick(app, session + "x")).status_code == 200
        answers = {"params": {"session_hash": session}}
        with ann.stream("GET", f"{GRADIO}/queue/data", **answers) as stream:
            assert sum("process_completed" in line for line in stream.iter_lines()) == 20
        assert ann.post(f"{GRADIO}/queue/join", json=body).status_code == 200


def tick(server: Server, session: str) -> dict[str, Any]:
    """The body of what the page sends every two seconds."""
    step, *_ = steps_of(config_of(httpx.get(server.url).text), "tick")
    data = [None for _ in step["inputs"]]
    return {"data": data, "fn_index": step["id"], "session_hash": session}


def steps_of(config: dict[str, Any], event: str) -> list[dict[str, Any]]:
    """What Gradio's page does on an event of that name."""
    steps = config["dependencies"]
    return [step for step in steps if any(target[1] == event for target in step["targets"])]


def config_of(page: str) -> dict[str, Any]:
    """What Gradio tells its page about events and components."""
    found = re.search(r"window\.gradio_config = (\{.*?\});</script>", page, re.DOTALL)
    assert found is not None
    config: dict[str, Any] = json.loads(found[1])
    return config


def assert_session_is_closed_to(client: httpx.Client, session: str) -> None:
    for reply in (
        client.post(f"{GRADIO}/queue/join", json=event(session)),
        client.get(f"{GRADIO}/queue/data", params={"session_hash": session}),
        client.get(f"{GRADIO}/heartbeat/{session}"),
        client.post(f"{GRADIO}/cancel", json=event(session)),
        client.post(f"{GRADIO}/queue/join", content=b'{"session_hash": "'),
        client.post(f"{GRADIO}/queue/join", json=["x"]),
    ):
        assert (reply.status_code, "Open it again" in reply.text) == (403, True)


def test_chats_of_a_login_cannot_be_named_by_a_browser(all_weights: Path, tmp_path: Path) -> None:
    store = Store(f"sqlite:///{tmp_path / 'conversations.sqlite3'}")
    conversation = store.create("login:alice")
    store.put_message("login:alice", conversation, Message("user", (TextPart("my hidden words"),)))
    mine = "0123456789abcdef" * 2
    own = store.create(mine)
    store.put_message(mine, own, Message("user", (TextPart("my own words"),)))
    store.close()
    with running_app(tmp_path) as server:
        for claim in ("login:alice", ["login:alice"], {"owner": "login:alice"}):
            shown = loaded(server, {"owner": claim, "conversation": conversation})
            assert "hidden" not in shown
        assert "my own words" in loaded(server, {"owner": mine, "conversation": own})


def loaded(server: Server, kept: dict[str, Any]) -> str:
    """What the page's events of loading answer to a browser that kept this."""
    session = secrets.token_hex(5)
    with stranger(server) as client:
        config = config_of(client.get("/").text)
        kinds = {part["id"]: part["type"] for part in config["components"]}
        loads = steps_of(config, "load")
        assert loads
        for step in loads:
            data = [kept if kinds[i] == "browserstate" else None for i in step["inputs"]]
            body = {"data": data, "fn_index": step["id"], "session_hash": session}
            assert client.post(f"{GRADIO}/queue/join", json=body).status_code == 200
        answers = f"{GRADIO}/queue/data?session_hash={session}"
        with client.stream("GET", answers) as stream:
            return "\n".join(stream.iter_lines())
