"""Markdown of a model in, HTML that is safe to show out.

Two walls stand between what a model writes and the page. The renderer makes no HTML of its own
input: raw HTML is text, a picture becomes a link, a link leads to http, https or mailto. Then
`nh3` removes whatever is not in a short list of tags, attributes and classes. Nothing that passes
makes a browser fetch anything by itself.

Mathematics (`$x$`, `$$x$$`, `\\(x\\)`, `\\[x\\]`) becomes MathML, which browsers draw without fonts
or scripts; code is coloured by classes that the style sheet gives a colour in both themes.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from functools import lru_cache
from html import escape, unescape
from typing import Any
from xml.etree.ElementTree import tostring

import nh3
from latex2mathml.converter import convert_to_element
from markdown_it import MarkdownIt
from markdown_it.renderer import RendererHTML
from markdown_it.ruler import RuleOptionsType
from markdown_it.rules_block import StateBlock
from markdown_it.rules_inline import StateInline
from markdown_it.token import Token
from mdit_py_plugins.dollarmath import dollarmath_plugin
from mdit_py_plugins.gfm_autolink import gfm_autolink_plugin
from pygments import highlight
from pygments.formatters import HtmlFormatter
from pygments.lexers import get_lexer_by_name
from pygments.token import STANDARD_TYPES
from pygments.util import ClassNotFound

MAX_NESTING = 24
MAX_COLOURED_CHARACTERS = 40_000
MAX_FORMULA_CHARACTERS = 4_000
FIRST_HEADING = 3
"""The page's own headings are above those of an answer."""

_SAFE_LINK = re.compile(r"(?:https?://|mailto:)", re.IGNORECASE)
_PROSE = re.compile(r"\d[^\\^_=]*\s[A-Za-z]{2,}\s")
_TOKEN_CLASSES = {f"tok-{name}" for name in STANDARD_TYPES.values() if name}
_MATHML = {
    "math", "mrow", "mi", "mn", "mo", "mtext", "mspace", "ms", "mfrac", "msqrt", "mroot", "mstyle",
    "merror", "mpadded", "mphantom", "menclose", "msub", "msup", "msubsup", "munder", "mover",
    "munderover", "mmultiscripts", "mtable", "mtr", "mtd",
}  # fmt: skip
_TAGS = _MATHML | {
    "p", "br", "hr", "strong", "em", "s", "code", "pre", "blockquote", "ul", "ol", "li", "a", "div",
    "span", "h3", "h4", "h5", "h6", "table", "thead", "tbody", "tr", "th", "td",
}  # fmt: skip
_MATH_ATTRIBUTES = {"mathvariant", "stretchy", "fence", "form", "lspace", "rspace", "width",
    "height", "depth", "linethickness", "displaystyle", "scriptlevel", "accent", "accentunder",
    "columnalign", "minsize", "maxsize", "movablelimits", "separator", "symmetric", "notation",
    "linebreak", "largeop"}  # fmt: skip
_ATTRIBUTES: dict[str, set[str]] = {
    **dict.fromkeys(_MATHML, _MATH_ATTRIBUTES),
    "math": {"display", "xmlns"},
    "a": {"href", "title"},
    "ol": {"start"},
    "div": {"role", "tabindex", "aria-label"},
    "pre": {"tabindex", "role", "aria-label"},
}
_CLASSES = {
    "div": {"table", "code", "code-name", "formula"},
    "span": _TOKEN_CLASSES,
    "code": {"formula"},
    "th": {"left", "center", "right"},
    "td": {"left", "center", "right"},
}


def render_growing(text: str) -> tuple[str, ...]:
    """The HTML of `text`, one string for each block (paragraph, list, table) on its top level."""
    environment: dict[str, Any] = {}
    tokens = _markdown.parse(text, environment)
    blocks: list[str] = []
    depth = first = 0
    for index, token in enumerate(tokens):
        depth += token.nesting
        if depth == 0:
            html = _markdown.renderer.render(
                tokens[first : index + 1], _markdown.options, environment
            )
            blocks.append(_clean(html))
            first = index + 1
    return tuple(blocks)


render = lru_cache(maxsize=2048)(render_growing)
"""The same, remembered: for a text that is whole."""


@lru_cache(maxsize=4096)
def _clean(html: str) -> str:
    return nh3.clean(
        html,
        tags=_TAGS,
        attributes=_ATTRIBUTES,
        allowed_classes=_CLASSES,
        url_schemes={"http", "https", "mailto"},
        link_rel="noopener noreferrer nofollow",
        set_tag_attribute_values={"a": {"target": "_blank"}},
    ).strip()


# ---------------------------------------------------------------- code and mathematics


@lru_cache(maxsize=512)
def _coloured(code: str, language: str) -> str:
    """Code as HTML, in the colours of its language where that is known."""
    if not language or len(code) > MAX_COLOURED_CHARACTERS:
        return escape(code)
    try:
        lexer = get_lexer_by_name(language, stripnl=False)
    except ClassNotFound:
        return escape(code)
    return highlight(code, lexer, HtmlFormatter(nowrap=True, classprefix="tok-"))


@lru_cache(maxsize=1024)
def formula(tex: str, is_block: bool) -> str:
    """TeX as MathML; as it was written where it cannot be read."""
    tex = tex.strip()
    if len(tex) > MAX_FORMULA_CHARACTERS:
        return _raw_formula(tex)
    try:
        root = convert_to_element(tex, display="block" if is_block else "inline")
    except Exception:  # whatever a converter makes of text that is no TeX
        return _raw_formula(tex)
    for node in root.iter():  # it writes signs as entities, which are text to a serializer
        node.text, node.tail = unescape(node.text or ""), unescape(node.tail or "")
        if node.tag == "mi" and node.text.startswith("\\"):
            return _raw_formula(tex)  # a command that it does not know
    return tostring(root, encoding="unicode")


def _raw_formula(tex: str) -> str:
    return f'<code class="formula">{escape(tex)}</code>'


def _dollars(tex: str, options: Mapping[str, Any]) -> str:
    """What stands between dollar signs: a formula, or an amount of money with words after it."""
    is_block = bool(options.get("display_mode"))
    if not is_block and _PROSE.match(tex):
        return escape(f"${tex}$")
    return formula(tex, is_block)


def _inline_brackets(state: StateInline, silent: bool) -> bool:
    """``\\(x\\)`` and ``\\[x\\]`` inside a paragraph."""
    opening = state.src[state.pos : state.pos + 2]
    if opening not in {r"\(", r"\["}:
        return False
    end = state.src.find(r"\)" if opening == r"\(" else r"\]", state.pos + 2)
    if end < 0 or end + 2 > state.posMax or not state.src[state.pos + 2 : end].strip():
        return False
    if not silent:
        token = state.push("math_brackets", "math", 0)
        token.content = state.src[state.pos + 2 : end]
        token.meta = {"is_block": opening == r"\["}
    state.pos = end + 2
    return True


def _times(state: StateInline, silent: bool) -> bool:
    """The asterisks of ``2*3*4`` multiply; they emphasize nothing."""
    here, text = state.pos, state.src
    if text[here] != "*" or not 0 < here < state.posMax - 1:
        return False
    if not (text[here - 1].isdigit() and text[here + 1].isdigit()):
        return False
    if not silent:
        state.pending += "*"
    state.pos += 1
    return True


def _block_brackets(state: StateBlock, start: int, end: int, silent: bool) -> bool:
    """``\\[x\\]`` on lines of its own; blank lines and lists may not cut it."""
    if state.is_code_block(start):
        return False
    first = state.bMarks[start] + state.tShift[start]
    if not state.src.startswith(r"\[", first):
        return False
    for line in range(start, end):
        text = state.src[first : state.eMarks[line]].rstrip()
        if (close := text.find(r"\]", 2)) >= 0:
            if close + 2 != len(text):
                return False  # words follow, so it belongs to a paragraph
            if not silent:
                token = state.push("math_brackets", "math", 0)
                token.block, token.map = True, [start, line + 1]
                token.content, token.meta = text[2:close], {"is_block": True}
            state.line = line + 1
            return True
    return False


# ---------------------------------------------------------------- the parser and its renderer


class _Renderer(RendererHTML):
    """How each kind of token is written; the rest is the library's."""

    def fence(self, tokens: Sequence[Token], idx: int, *_: Any) -> str:
        token = tokens[idx]
        language = (token.info.split() or [""])[0][:40]
        name = escape(language or "code")
        code = _coloured(token.content, language)
        return (
            f'<div class="code"><div class="code-name">{name}</div><pre tabindex="0" '
            f'role="region" aria-label="Code, {name}"><code>{code}</code></pre></div>\n'
        )

    def code_block(self, tokens: Sequence[Token], idx: int, *_: Any) -> str:
        return self.fence(tokens, idx)

    def image(self, tokens: Sequence[Token], idx: int, *_: Any) -> str:
        """A picture that a model names is never fetched: its words, and where it lies as a link."""
        address = str(tokens[idx].attrs.get("src", ""))
        words = escape(tokens[idx].content or address)
        return f'<a href="{escape(address)}">{words}</a>'

    def math_brackets(self, tokens: Sequence[Token], idx: int, *_: Any) -> str:
        token = tokens[idx]
        html = formula(token.content, bool(token.meta["is_block"]))
        return _formula_block(html) if token.block else html

    def math_block(self, tokens: Sequence[Token], idx: int, *_: Any) -> str:
        return _formula_block(formula(tokens[idx].content, True))

    def table_open(self, *_: Any) -> str:
        return '<div class="table" role="region" tabindex="0" aria-label="Table"><table>\n'

    def table_close(self, *_: Any) -> str:
        return "</table></div>\n"

    def th_open(self, tokens: Sequence[Token], idx: int, *_: Any) -> str:
        token = tokens[idx]
        side = str(token.attrs.get("style", "")).partition(":")[2]
        return f'<{token.tag} class="{side}">' if side else f"<{token.tag}>"

    td_open = th_open

    def heading_open(self, tokens: Sequence[Token], idx: int, *_: Any) -> str:
        level = min(6, int(tokens[idx].tag[1:]) + FIRST_HEADING - 1)
        return f"<h{level}>" if tokens[idx].nesting > 0 else f"</h{level}>\n"

    heading_close = heading_open


def _formula_block(html: str) -> str:
    return f'<div class="formula" tabindex="0">{html}</div>'


class _Parser(MarkdownIt):
    """CommonMark with tables, mathematics and plain addresses; without HTML."""

    def __init__(self) -> None:
        options: dict[str, Any] = {"html": False, "maxNesting": MAX_NESTING, "breaks": True}
        super().__init__("commonmark", options, renderer_cls=_Renderer)
        self.enable(["table", "strikethrough"])
        self.use(gfm_autolink_plugin)
        self.use(
            dollarmath_plugin,
            allow_labels=False,
            allow_space=False,
            allow_digits=False,
            double_inline=True,
            renderer=_dollars,
        )
        self.inline.ruler.before("escape", "brackets", _inline_brackets)
        self.inline.ruler.before("emphasis", "times", _times)
        ends: RuleOptionsType = {"alt": ["paragraph", "blockquote", "list"]}
        self.block.ruler.before("fence", "brackets", _block_brackets, ends)

    def validateLink(self, url: str) -> bool:  # noqa: N802
        """Whether an address may become a link; one that may not stays text."""
        return bool(_SAFE_LINK.match(url))


_markdown = _Parser()
