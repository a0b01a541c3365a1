"""Who may use the studio, and what of it: a job takes the machine for hours, and reads files."""

from __future__ import annotations

from multimodal.access import Hosts
from multimodal.settings import Settings

INSTALL = 'pip install "multimodal-chat[studio]"'
CLOSED = (
    "The studio is for whoever runs this machine, and everybody who reaches this page could use "
    "it. Start the program with --auth USER:PASSWORD, or without --share and --host."
)


def is_local(settings: Settings) -> bool:
    """Whether the page is reached from this machine alone."""
    return Hosts(settings.host).is_local and not settings.share


def why_closed(settings: Settings) -> str:
    """The sentence for people who may not use it; "" for those who may: whoever sits at this
    machine, or was given a login."""
    return "" if is_local(settings) or settings.logins() else CLOSED


def may_name_paths(settings: Settings) -> bool:
    """Whether a file or folder of this machine may be named as data: by who can read it anyway."""
    return is_local(settings) and not settings.logins()
