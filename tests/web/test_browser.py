"""The person whom the page's tests drive: no fault of a script is missed, no answer mistaken."""

from __future__ import annotations

import pytest
from browser import Person, visit
from conftest import wait_until
from fake_page import FakePage
from playwright.sync_api import Browser

SLOW = """([part, milliseconds]) => {
  const fetch = window.fetch, late = () => new Promise((go) => setTimeout(go, milliseconds));
  window.fetch = async (address, options) => {
    if (`${address} ${options?.body}`.includes(part)) await late();
    return fetch(address, options);
  };
}"""
"""Requests with this part in their address or body take as long to get to the server."""
BREAK = """() => {
  const { toggle } = DOMTokenList.prototype;
  DOMTokenList.prototype.toggle = function (name, ...rest) {
    if (name === 'busy' && this.contains('pane')) throw new Error('broken on purpose');
    return toggle.call(this, name, ...rest);
  };
}"""
"""Whichever pane is there by then: one may be made anew while the page begins."""


def test_what_a_script_of_the_pane_throws_is_a_fault(browser: Browser, chat: FakePage) -> None:
    person = Person(browser, chat.url)
    person.page.evaluate(BREAK)
    person.say("hello")
    wait_until(lambda: bool(person.page.wait_for_timeout(100)) or person.faults)
    assert "broken on purpose" in "".join(person.faults)
    person.close()


def test_a_visit_that_fails_leaves_no_context_behind(browser: Browser, chat: FakePage) -> None:
    before = len(browser.contexts)
    with pytest.raises(AssertionError), visit(browser, chat.url) as person:
        person.faults.append("a fault")
    with pytest.raises(RuntimeError), visit(browser, chat.url):
        raise RuntimeError
    assert len(browser.contexts) == before


def test_an_answer_that_is_slow_to_begin_is_not_taken_for_the_one_before(
    person: Person, chat: FakePage
) -> None:
    chat.say("the first answer")
    assert person.ask("hello") == "the first answer"
    chat.say("the second answer")
    person.page.evaluate(SLOW, ['"retry"', 6_000])
    person.do("Answer again")
    person.wait()
    assert person.reply() == "the second answer"


def test_a_page_is_open_once_it_shows_what_the_server_says(person: Person) -> None:
    person.ask("what was said")
    person.page.add_init_script(f"""({SLOW})(['"owner"', 4000])""")
    person.open()
    assert person.said.count() == 1
