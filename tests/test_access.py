"""Who is asking: owners that cannot be forged, logins that cannot be guessed, names."""

from __future__ import annotations

import logging

import pytest
from hypothesis import given
from hypothesis import strategies as st

from multimodal.access import (
    Hosts,
    Logins,
    network_of,
    owner_of_cookie,
    parse_origin,
    resolve_owner,
)
from multimodal.messages import new_id

# ------------------------------------------------------------ owners


def test_a_login_is_the_owner_whatever_the_browser_says() -> None:
    for claim in (None, "", "login:bob", new_id(), {"owner": "login:bob"}):
        assert resolve_owner("alice", claim) == "login:alice"


def test_a_browser_keeps_the_id_that_it_was_given() -> None:
    given_before = resolve_owner(None, None)
    assert resolve_owner(None, given_before) == given_before
    assert resolve_owner(None, None) != resolve_owner(None, None)


def test_tabs_of_a_browser_without_an_owner_are_given_the_same_one() -> None:
    first = owner_of_cookie("secret", "a" * 32)
    assert resolve_owner(None, "", first) == resolve_owner(None, None, first) == first
    assert resolve_owner(None, first, owner_of_cookie("secret", "b" * 32)) == first
    assert resolve_owner("ann", None, first) == "login:ann"
    others = {owner_of_cookie("other", "a" * 32), owner_of_cookie("secret", "b" * 32), "a" * 32}
    assert first not in others
    assert resolve_owner(None, first) == first, "it is kept like one that was drawn"


@given(
    st.text()
    | st.builds("login:{}".format, st.text())
    | st.builds("{}\n".format, st.just("0" * 32))
    | st.none()
    | st.lists(st.text())
    | st.dictionaries(st.text(), st.text())
)
def test_a_browser_never_names_what_belongs_to_a_login(claim: object) -> None:
    owner = resolve_owner(None, claim)
    assert not owner.startswith("login:")
    assert len(owner) == 32
    assert set(owner) <= set("0123456789abcdef")


# ------------------------------------------------------------ logins

HERE, THERE = "192.0.2.1", "192.0.2.2"


@pytest.fixture
def logins() -> Logins:
    return Logins({"ann": "right", "böb": "réght"})


def test_right_passwords_are_right(logins: Logins) -> None:
    assert logins
    assert not Logins({})
    assert logins.check("ann", "right", HERE).is_right
    assert logins.check("böb", "réght", HERE).is_right
    for user, password in (("ann", "réght"), ("ann", ""), ("", ""), ("eve", "right")):
        assert not logins.check(user, password, HERE).is_right


def test_wrong_passwords_make_the_next_one_wait(logins: Logins) -> None:
    for _ in range(5):
        assert logins.check("ann", "wrong", HERE).wait_s == 0
    refused = logins.check("ann", "right", HERE)
    assert not refused.is_right
    assert 0 < refused.wait_s <= 30
    assert logins.check("ann", "right", THERE).is_right


def test_an_address_that_tries_many_names_waits() -> None:
    logins = Logins({f"user{number}": "right" for number in range(100)})
    results = [logins.check(f"user{number}", "wrong", HERE) for number in range(99)]
    assert sum(not result.wait_s for result in results) == 20
    assert logins.check("user99", "right", HERE).wait_s > 0
    assert logins.check("user99", "right", THERE).is_right


def test_names_that_nobody_has_are_slowed_down_like_others(logins: Logins) -> None:
    results = [logins.check(f"nobody{number}", "wrong", HERE) for number in range(1000)]
    assert sum(not result.wait_s for result in results) == 5


def test_many_addresses_lock_nobody_out_who_is_known(logins: Logins) -> None:
    assert logins.check("ann", "right", HERE).is_right
    results = [logins.check("ann", "wrong", f"198.51.100.{number}") for number in range(200)]
    assert sum(not result.wait_s for result in results) <= 60
    assert 0 < logins.check("ann", "right", THERE).wait_s <= 300
    assert logins.check("ann", "right", HERE).is_right
    assert logins.check("böb", "réght", THERE).is_right


def test_who_is_known_at_an_address_is_not_kept_out_by_others_there() -> None:
    """Behind a share link or a proxy everybody has the same address."""
    logins = Logins({f"user{number}": "right" for number in range(100)})
    assert logins.check("user0", "right", HERE).is_right
    for number in range(1, 100):
        logins.check(f"user{number}", "wrong", HERE)
    assert logins.check("user99", "right", HERE).wait_s > 0
    assert logins.check("user0", "right", HERE).is_right
    tries = [logins.check("user0", "wrong", HERE) for _ in range(100)]
    assert sum(not check.wait_s for check in tries) == 5, "guessing stays as slow as elsewhere"


def test_wrong_passwords_of_who_is_known_count_for_the_address() -> None:
    logins = Logins({f"user{number}": "right" for number in range(100)})
    for number in range(4):
        assert logins.check(f"user{number}", "right", HERE).is_right
    for number in range(4):
        for _ in range(5):
            logins.check(f"user{number}", "wrong", HERE)
    assert logins.check("user99", "right", HERE).wait_s > 0


def test_the_right_password_ends_the_count_of_slips(logins: Logins) -> None:
    for _ in range(10):
        assert not logins.check("ann", "slip", HERE).wait_s
        assert logins.check("ann", "right", HERE).is_right


def test_an_own_account_gives_no_more_tries_at_another(logins: Logins) -> None:
    tries = 0
    for _ in range(40):
        tries += not logins.check("ann", "wrong", HERE).wait_s
        logins.check("böb", "réght", HERE)
    assert tries == 5


def test_wrong_logins_are_logged_without_their_password(
    logins: Logins, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        logins.check("eve\n" + "x" * 10_000, "the-wrong-one", HERE)
    assert len(caplog.records) == 1
    told = caplog.records[0].getMessage()
    assert HERE in told
    assert "eve" in told
    assert "\n" not in told
    assert "the-wrong-one" not in told
    assert len(told) < 200


def test_one_machine_counts_once_however_many_addresses_it_has() -> None:
    assert network_of("2001:db8::1") == network_of("2001:db8::ffff:1")
    assert network_of("2001:db8::1") != network_of("2001:db8:0:1::1")
    assert network_of("::ffff:192.0.2.1") == network_of(HERE)
    assert len(network_of("x" * 1000)) < 100


# ------------------------------------------------------------ names and origins


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "::1", "127.0.0.9"])
def test_a_server_for_this_machine_answers_to_few_names(host: str) -> None:
    hosts = Hosts(host)
    shown = f"[{host}]" if ":" in host else host
    for name in ("localhost", "LOCALHOST:7860", "127.0.0.1:7860", "[::1]:7860", shown):
        assert hosts.is_allowed_host(name)
    for name in ("evil.example", "evil.example:7860", "192.0.2.1", "localhost.evil.example", ""):
        assert not hosts.is_allowed_host(name)


@pytest.mark.parametrize("port", ["7" * 5000, "65536", "000007860", "-1", "٧٨٦٠", "78 60", "", "x"])
def test_a_host_whose_port_is_none_is_no_name_of_the_server(port: str) -> None:
    hosts = Hosts("127.0.0.1")
    for name in ("localhost", "127.0.0.1", "[::1]"):
        assert not hosts.is_allowed_host(f"{name}:{port}")
        assert not hosts.is_https_only(f"{name}:{port}")
        assert not hosts.is_same_origin("http://localhost:80", f"{name}:{port}")
        assert not hosts.is_same_origin(f"http://{name}:{port}", name)
        assert not hosts.is_allowed_origin(f"http://{name}:{port}")


def test_a_server_for_everybody_answers_to_addresses_and_to_no_strange_name() -> None:
    for host in ("0.0.0.0", "::", "192.0.2.1", "chat.example"):  # noqa: S104
        hosts = Hosts(host)
        for name in ("192.0.2.1:7860", "[2001:db8::1]:7860", "localhost:7860"):
            assert hosts.is_allowed_host(name)
        for name in ("evil.example:7860", "1.evil.example", "evil.example:7860:1", "[evil]"):
            assert not hosts.is_allowed_host(name)
    assert Hosts("chat.example").is_allowed_host("chat.example:7860")


def test_a_share_link_is_answered_to_once_it_is_there() -> None:
    hosts = Hosts("127.0.0.1")
    link = "https://0123456789abcdef.gradio.live"
    assert not hosts.is_allowed_host(link.removeprefix("https://"))
    hosts.add(link)
    assert hosts.is_allowed_host("0123456789abcdef.gradio.live")
    assert hosts.is_allowed_origin(link)
    assert hosts.is_https_only("0123456789abcdef.gradio.live")
    for other in ("fedcba9876543210.gradio.live", "gradio.live", "x.0123456789abcdef.gradio.live"):
        assert not hosts.is_allowed_host(other)
        assert not hosts.is_allowed_origin(f"https://{other}")
    assert not hosts.is_allowed_origin(link.replace("https", "http"))


def test_an_origin_is_our_own_by_name_and_port() -> None:
    hosts = Hosts("127.0.0.1")
    assert hosts.is_same_origin("http://127.0.0.1:7860", "127.0.0.1:7860")
    assert hosts.is_same_origin("http://localhost", "localhost:80")
    assert hosts.is_same_origin("https://localhost:443", "localhost")
    assert hosts.is_same_origin("HTTP://[::1]:7860", "[::1]:7860")
    for origin in ("null", "", "http://127.0.0.1:7861", "http://127.0.0.1", "ftp://127.0.0.1:7860"):
        assert not hosts.is_same_origin(origin, "127.0.0.1:7860")
    assert not hosts.is_same_origin("https://localhost", "localhost:80")


@pytest.mark.parametrize(
    "text",
    ["", "chat.example", "ftp://x", "https://", "https://x/path", "https://a@b", "http://[::1"],
)
def test_what_is_no_origin_is_refused_by_its_name(text: str) -> None:
    with pytest.raises(ValueError, match=r"no origin such as|Invalid IPv6"):
        parse_origin(text)
