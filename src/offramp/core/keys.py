"""API keys as data: their form, their notation, what they may do, and which key a secret belongs to.

A secret is kept as its SHA-256 and nothing else. A fast hash is right here: it is slow hashing that protects secrets
that can be guessed, and 256 random bits cannot, while a slow one would cost every request, wrong ones included.
"""

from __future__ import annotations

import hashlib
import hmac
import re
from collections.abc import Iterable
from typing import Literal, NamedTuple, cast, get_args

from offramp.core.names import near_miss
from offramp.core.quotas import KEY_RUNS_MAX, Quota
from offramp.core.rates import Rate, parse_rate
from offramp.errors import SettingsError

SECRET_LENGTH_MIN = 16
SECRET_LENGTH_MAX = 256
NAME_LENGTH_MAX = 64
KEYS_MAX = 10_000
"""Keys in one file: each request is compared with all of them."""
DEFAULT_TENANT = "default"
"""The shown name of the tenant of runs without keys; stored as an empty string."""

Scope = Literal["run", "read", "inspect", "operate"]
"""What a key may do, beside reading documents, events and results of its tenant's runs, which every key may: start runs
and cancel, signal and retry any run (`run`); nothing (`read`); read inputs, arguments and tracebacks (`inspect`);
cancel, signal and retry any run (`operate`)."""
SCOPES: tuple[Scope, ...] = get_args(Scope)
SCOPES_DEFAULT: frozenset[Scope] = frozenset({"run"})

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
_SECRET = re.compile(r"[A-Za-z0-9._~+/-]+=*")
_DIGEST = re.compile(r"[0-9a-f]{64}")


class Key(NamedTuple):
    """An API key without its secret; `digest` is the secret's SHA-256 in hexadecimal.

    `rate` limits the requests that may start runs, `runs` how many of its runs may be open at once; None for no limit.
    """

    name: str
    tenant: str
    digest: str
    scopes: frozenset[Scope] = SCOPES_DEFAULT
    rate: Rate | None = None
    runs: int | None = None

    @property
    def quota(self) -> Quota | None:
        """Its limits, None without any; a key with the name of an earlier one of its tenant continues its count."""
        if self.rate is None and self.runs is None:
            return None
        return Quota(f"{shown_tenant(self.tenant)}/{self.name}", self.rate, self.runs)

    def __repr__(self) -> str:
        return f"<key {self.name!r} of tenant {shown_tenant(self.tenant)!r}>"


def digest_of(secret: str) -> str:
    """The digest stored for a secret."""
    return hashlib.sha256(secret.encode("utf-8", "surrogateescape")).hexdigest()


def find(secret: str, keys: Iterable[Key]) -> Key | None:
    """The key with this secret; takes as long for a wrong secret as for a right one, whichever key it is."""
    digest = digest_of(secret)
    found = None
    for key in keys:
        if hmac.compare_digest(key.digest, digest) and found is None:
            found = key
    return found


def require_name(name: str, what: str) -> str:
    """`name`, if it is a valid name of a key or tenant.

    Raises:
        SettingsError: it may not.
    """
    if len(name) > NAME_LENGTH_MAX or not _NAME.fullmatch(name):
        raise SettingsError(
            f"{what} is 1 to {NAME_LENGTH_MAX} letters, digits, '.', '_' or '-' and begins with a letter or digit"
        )
    return name


def require_scopes(names: Iterable[str]) -> frozenset[Scope]:
    """The scopes of these names.

    Raises:
        SettingsError: there is none, or one is unknown.
    """
    names = list(names)
    for name in names:
        if name not in SCOPES:
            hint = near_miss(name, SCOPES)
            raise SettingsError(f"no scope {name[:NAME_LENGTH_MAX]!r}, a key has some of {', '.join(SCOPES)}{hint}")
    if not names:
        raise SettingsError(f"a key has at least one scope of {', '.join(SCOPES)}")
    return frozenset(cast("list[Scope]", names))


def require_runs(number: int, what: str = "the limit on a key's open runs") -> int:
    """`number`, if a key may have so many open runs.

    Raises:
        SettingsError: it may not.
    """
    if not 1 <= number <= KEY_RUNS_MAX:
        raise SettingsError(f"{what} is from 1 to {KEY_RUNS_MAX} (KEY_RUNS_MAX), got {number}")
    return number


def shown_scopes(scopes: frozenset[Scope]) -> list[Scope]:
    """Scopes in the order of `SCOPES`."""
    return [scope for scope in SCOPES if scope in scopes]


def stored_tenant(shown: str) -> str:
    """A tenant as runs are stored with it."""
    return "" if shown == DEFAULT_TENANT else shown


def shown_tenant(stored: str) -> str:
    """A tenant as people write it."""
    return stored or DEFAULT_TENANT


def parse_keys(text: str, source: str) -> list[Key]:
    """Keys from `[tenant/]name[+scope...][+rate=100/min][+runs=50]:secret` or a bare secret each, separated by commas.

    `sha256:digest` may stand for a secret.

    Raises:
        SettingsError: an entry is wrong; the message says which by its place, and never what it holds.
    """
    entries = [entry.strip() for entry in text.split(",") if entry.strip()]
    if not entries:
        raise SettingsError(f"{source} is set, but holds no key; unset it, or give name:secret")
    keys: list[Key] = []
    for place, entry in enumerate(entries, 1):
        key = _parse_key(entry, place, f"{source}, key {place}")
        if any(key.name == other.name for other in keys):
            raise SettingsError(f"{source}, key {place}: its name is taken by another key before it")
        if any(key.digest == other.digest for other in keys):
            raise SettingsError(f"{source}, key {place}: its secret is that of another key before it")
        keys.append(key)
    return keys


def _parse_key(entry: str, place: int, where: str) -> Key:
    # A secret has no colon, as bearer tokens have none (RFC 6750, 2.1): what has none is a secret.
    label, colon, secret = entry.partition(":")
    if not colon:
        label, secret = f"key-{place}", entry
    label, *given = label.split("+")
    tenant, slash, name = label.rpartition("/")
    require_name(name, f"{where}: a name")
    if slash:
        require_name(tenant, f"{where}: a tenant")
    rate, runs = _limits([part for part in given if "=" in part], where)
    given = [part for part in given if "=" not in part]
    if any(scope not in SCOPES for scope in given):
        raise SettingsError(f"{where}: its scopes, each after a '+', are some of {', '.join(SCOPES)}")
    scopes = require_scopes(given) if given else SCOPES_DEFAULT
    if secret.startswith("sha256:"):
        digest = secret.removeprefix("sha256:")
        if not _DIGEST.fullmatch(digest):
            raise SettingsError(f"{where}: a SHA-256 is 64 hexadecimal digits in lower case")
        return Key(name, stored_tenant(tenant), digest, scopes, rate, runs)
    if not SECRET_LENGTH_MIN <= len(secret) <= SECRET_LENGTH_MAX:
        raise SettingsError(
            f"{where}: its secret has {len(secret)} characters, from {SECRET_LENGTH_MIN} to {SECRET_LENGTH_MAX} are "
            "taken; 'offramp keys add' makes good ones"
        )
    if not _SECRET.fullmatch(secret):
        raise SettingsError(
            f"{where}: its secret has a character that a bearer token cannot have; letters, digits and -._~+/ are taken"
        )
    return Key(name, stored_tenant(tenant), digest_of(secret), scopes, rate, runs)


def _limits(given: list[str], where: str) -> tuple[Rate | None, int | None]:
    """The limits of `rate=100/min` and `runs=50`."""
    rate: Rate | None = None
    runs: int | None = None
    for part in given:
        name, _, value = part.partition("=")
        if name == "rate" and rate is None:
            rate = parse_rate(value, f"{where}: its rate")
        elif name == "runs" and runs is None and value.isascii() and value.isdigit() and len(value) < 10:
            runs = require_runs(int(value), f"{where}: its runs=")
        else:
            raise SettingsError(f"{where}: its limits, each once after a '+', are rate=100/min and runs=50")
    return rate, runs
