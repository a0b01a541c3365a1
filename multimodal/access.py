"""Who is asking, and by which name they reached this server.

Three questions, each answered in one place and without a web framework:

1. `resolve_owner`: whose conversations does this person see?
2. `Logins.check`: is this user name and password right, and may it be tried again yet?
3. `Hosts`: is this one of the server's own names, and may pages of that origin call it?
"""

from __future__ import annotations

import hmac
import ipaddress
import logging
import math
import re
import secrets
import socket
import time
from collections import OrderedDict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from hashlib import sha256
from typing import NamedTuple
from urllib.parse import urlsplit

from limits import RateLimitItem, parse_many
from limits.storage import MemoryStorage
from limits.strategies import FixedWindowRateLimiter

from multimodal.messages import new_id

log = logging.getLogger(__name__)

LOOPBACK = frozenset({"localhost", "127.0.0.1", "[::1]"})
DEFAULT_PORTS = {"http": 80, "https": 443}
MAX_PORT = 65_535

_LOGIN = "login:"
_RANDOM_ID = re.compile("[0-9a-f]{32}")
_PORT = re.compile("[0-9]{1,5}")

# ------------------------------------------------------------ owners


def resolve_owner(login: str | None, claim: object, first: str | None = None) -> str:
    """The owner of what a person stores.

    login: the user name that the server verified for this request; None where none is asked for.
    claim: what the browser says that its owner was last time. It counts only without a login, and
        only in the form of the ids that this program draws (128 random bits), so it can never
        name what belongs to a login.
    first: whose a browser is that says nothing yet (`owner_of_cookie`); None draws a new owner.
    """
    if login is not None:
        return _LOGIN + login
    if isinstance(claim, str) and _RANDOM_ID.fullmatch(claim):
        return claim
    return first or new_id()


def owner_of_cookie(secret: str, cookie: str) -> str:
    """The owner of a browser with this cookie, an HMAC under a secret of the server: tabs that are
    opened together for the first time have the same one, and nobody else can work it out."""
    return hmac.new(secret.encode(), f"first owner:{cookie}".encode(), sha256).hexdigest()[:32]


# ------------------------------------------------------------ logins

PER_USER_AND_ADDRESS = "5 per 30 seconds; 10 per 2 minutes; 20 per 5 minutes"
PER_ADDRESS = "20 per minute; 60 per 5 minutes"
PER_USER_FROM_NEW_ADDRESSES = "60 per 5 minutes"
"""Wrong passwords for one user from all addresses where that user never gave the right one. Who
logged in from an address before is not kept out by what others try, elsewhere or there: behind a
share link or a proxy all people have one address."""
FAMILIAR_ADDRESSES = 32
SHOWN_CHARACTERS = 64


@dataclass(frozen=True, slots=True)
class LoginCheck:
    """What came of one user name and password. `wait_s` > 0: they were not looked at, since too
    many wrong ones came before; they may be tried again after as many seconds."""

    is_right: bool
    wait_s: int = 0


class _Count(NamedTuple):
    item: RateLimitItem
    key: tuple[str, ...]


class Logins:
    """The user names and passwords of a server, and how often wrong ones may be tried.

    Every wrong one is counted for its user at its address, for the address, and for its user at
    addresses that are new to them; a full count makes the next attempt wait, at most 5 minutes.
    At an address where a user logged in before, only the count of the two makes that user wait.
    Counts are kept in memory and forgotten with the process. Not thread-safe: one event loop.
    """

    def __init__(self, passwords: Mapping[str, str]) -> None:
        self._passwords = dict(passwords)
        self._limiter = FixedWindowRateLimiter(MemoryStorage())
        self._familiar: dict[str, OrderedDict[str, None]] = {}

    def __bool__(self) -> bool:
        """Whether this server asks for a login at all."""
        return bool(self._passwords)

    def check(self, user: str, password: str, address: str) -> LoginCheck:
        """Compare a login that came from `address`; a wrong one is counted and logged."""
        counts, binding = self._counts(user, network_of(address))
        waits = [self._wait_s(item, key) for item, key in binding]
        if any(waits):
            return LoginCheck(False, max(waits))
        if self._is_right(user, password):
            self._remember(user, network_of(address))
            for item, key in counts:
                if key[0] == "pair":
                    self._limiter.clear(item, *key)
            return LoginCheck(True)
        for item, key in counts:
            self._limiter.hit(item, *key)
        log.warning("wrong login for %r from %s", user[:SHOWN_CHARACTERS], address)
        return LoginCheck(False)

    def _is_right(self, user: str, password: str) -> bool:
        known = self._passwords.get(user, secrets.token_hex())
        return hmac.compare_digest(known.encode(), password.encode()) and user in self._passwords

    def _counts(self, user: str, network: str) -> tuple[list[_Count], list[_Count]]:
        """What a wrong login is counted for, and those of the counts that it has to wait for."""
        # A name that nobody has needs no count of its own, and could be of any length.
        name = user if user in self._passwords else ""
        pair = [_Count(item, ("pair", name, network)) for item in parse_many(PER_USER_AND_ADDRESS)]
        there = [_Count(item, ("address", "", network)) for item in parse_many(PER_ADDRESS)]
        if network in self._familiar.get(name, ()):
            return pair + there, pair
        new = parse_many(PER_USER_FROM_NEW_ADDRESSES) if name else []
        counts = [*pair, *there, *(_Count(item, ("user", name, "")) for item in new)]
        return counts, counts

    def _wait_s(self, item: RateLimitItem, key: tuple[str, ...]) -> int:
        if self._limiter.test(item, *key):
            return 0
        ends_s = self._limiter.get_window_stats(item, *key).reset_time
        return max(1, math.ceil(ends_s - time.time()))

    def _remember(self, user: str, network: str) -> None:
        familiar = self._familiar.setdefault(user, OrderedDict())
        familiar[network] = None
        familiar.move_to_end(network)
        if len(familiar) > FAMILIAR_ADDRESSES:
            familiar.popitem(last=False)


def network_of(address: str) -> str:
    """What counts as one address: a whole /64 of IPv6, since one machine is given that many."""
    try:
        parsed = ipaddress.ip_address(address)
    except ValueError:
        return address[:SHOWN_CHARACTERS]
    if isinstance(parsed, ipaddress.IPv6Address):
        if parsed.ipv4_mapped is not None:
            return str(parsed.ipv4_mapped)
        return str(ipaddress.ip_network((parsed, 64), strict=False))
    return str(parsed)


# ------------------------------------------------------------ names and origins


class Hosts:
    """The names that a server answers to, and the origins whose pages may call it.

    A page of another site could have its own name resolve to this machine and pass for ours (DNS
    rebinding), so a name must be known. An address in digits cannot be redirected in that way: a
    server that listens beyond this machine answers to every one of them.
    """

    def __init__(self, host: str, origins: Iterable[str] = ()) -> None:
        self._names = set(LOOPBACK)
        self._origins: set[tuple[str, str, int]] = set()
        self.is_local = True
        """Whether the server listens for this machine alone."""
        try:
            address = ipaddress.ip_address(host.strip("[]"))
        except ValueError:
            self._names.add(host.lower())
            self.is_local = host.lower() == "localhost"
        else:
            self.is_local = address.is_loopback
            self._names.add(f"[{address}]" if address.version == 6 else str(address))
        if not self.is_local:
            machine = socket.gethostname().lower()
            self._names |= {machine, f"{machine}.local"}
        for origin in origins:
            self.add(origin)

    def add(self, origin: str) -> None:
        """Answer to `origin`, such as https://chat.example, too. Raises ValueError."""
        found = parse_origin(origin)
        self._origins.add(found)
        self._names.add(found[1])

    def is_allowed_host(self, host: str) -> bool:
        """Whether the value of a Host header names this server."""
        name, _ = split_host(host)
        return name in self._names or (not self.is_local and _is_address(name))

    def is_allowed_origin(self, origin: str) -> bool:
        """Whether it is one of the origins that were added."""
        try:
            return parse_origin(origin) in self._origins
        except ValueError:
            return False

    def is_same_origin(self, origin: str, host: str) -> bool:
        """Whether a page of `origin` was served by the server that `host`, a Host header, names."""
        try:
            scheme, name, port = parse_origin(origin)
        except ValueError:
            return False
        own, own_port = split_host(host)
        return name == own and port == (own_port or DEFAULT_PORTS[scheme])

    def is_https_only(self, host: str) -> bool:
        """Whether this name is reached over TLS alone, by what was added."""
        name, _ = split_host(host)
        schemes = {scheme for scheme, known, _ in self._origins if known == name}
        return schemes == {"https"}


def parse_origin(origin: str) -> tuple[str, str, int]:
    """Scheme, name and port of an origin such as https://chat.example. Raises ValueError."""
    parts = urlsplit(origin.strip().lower())
    name, port = split_host(parts.netloc)
    if parts.scheme not in DEFAULT_PORTS or not name or "@" in name or parts.path.strip("/"):
        raise ValueError(f"{origin[:SHOWN_CHARACTERS]} is no origin such as https://chat.example")
    return parts.scheme, name, port or DEFAULT_PORTS[parts.scheme]


def split_host(host: str) -> tuple[str, int | None]:
    """Name (IPv6 in brackets) and port of a Host header; the whole as the name if malformed."""
    host = host.strip().lower()
    name, colon, port = host.rpartition(":")
    if not colon or not _PORT.fullmatch(port) or int(port) > MAX_PORT:
        return host, None
    return name, int(port)


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name.removeprefix("[").removesuffix("]"))
    except ValueError:
        return False
    return True
