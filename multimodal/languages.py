"""What languages are called, by Unicode's own data."""

from __future__ import annotations

from langcodes import Language
from langcodes.tag_parser import LanguageTagError


def language_name(code: str) -> str:
    """The English name of a language given by its ISO 639 code; the code where it has none."""
    try:
        return Language.get(code).display_name()
    except LanguageTagError:
        return code
