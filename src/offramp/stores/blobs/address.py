"""The setting that names the place of large values: a folder, or a bucket with a prefix. Never a secret."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Literal, NamedTuple
from urllib.parse import SplitResult, parse_qsl, unquote, urlsplit

from offramp.core.addresses import is_loopback
from offramp.core.names import did_you_mean
from offramp.errors import SettingsError

Provider = Literal["S3", "GCS", "Azure"]
_PROVIDERS: dict[str, Provider] = {"s3": "S3", "gs": "GCS", "gcs": "GCS", "az": "Azure", "azure": "Azure"}
_OPTIONS: dict[Provider, tuple[str, ...]] = {
    "S3": ("endpoint", "region", "allow_http"),
    "GCS": (),
    "Azure": ("endpoint", "allow_http"),
}
_ENDPOINTS = {
    "S3": ("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL", "AWS_ENDPOINT"),
    "GCS": (),
    "Azure": ("AZURE_STORAGE_ENDPOINT", "AZURE_ENDPOINT"),
}
_ON = frozenset({"1", "true", "yes", "on"})


class Bucket(NamedTuple):
    """A place at a provider.

    `plain_http` if connections to it have no TLS, `is_near` if it is on this machine.
    """

    provider: Provider
    name: str
    prefix: str
    endpoint: str
    region: str
    plain_http: bool
    is_near: bool
    where: str


def parse_objects(text: str, environment: Mapping[str, str] | None = None) -> Path | Bucket | None:
    """The place that the setting names; None if it is empty.

    Args:
        text: a folder (also `file:FOLDER`), `s3://BUCKET/PREFIX`, `gs://…` or `az://CONTAINER/PREFIX`, with options.
        environment: `os.environ` by default; a provider's own variables in it may name an endpoint.

    Raises:
        SettingsError: it fits none of these, holds credentials, or would go over a network without TLS.
    """
    if not text:
        return None
    scheme, colon, rest = text.partition(":")
    if not colon or len(scheme) == 1 or "/" in scheme:
        return Path(text)
    if scheme == "file":
        return Path(unquote(urlsplit(text).path) if rest.startswith("//") else rest)
    provider = _PROVIDERS.get(scheme)
    if provider is None:
        raise SettingsError(
            f"objects {scheme}:…: expected a folder, s3://bucket/prefix, gs://bucket/prefix or az://container/prefix; "
            f"{did_you_mean(scheme, _PROVIDERS)}"
        )
    address = urlsplit(text)
    if "@" in address.netloc or ":" in address.netloc:
        raise SettingsError(
            f"objects {scheme}://…: only the name of the bucket follows //; credentials come from the "
            "provider's own variables, and ?endpoint= names your own server"
        )
    name, prefix = address.netloc, address.path.strip("/")
    if not name:
        raise SettingsError(f"objects {scheme}://: name the bucket, as in {scheme}://bucket/prefix")
    return _bucket(provider, scheme, name, prefix, address, os.environ if environment is None else environment)


def _bucket(
    provider: Provider, scheme: str, name: str, prefix: str, address: SplitResult, environment: Mapping[str, str]
) -> Bucket:
    where = f"{scheme}://{name}/{prefix}".rstrip("/")
    options = dict(parse_qsl(address.query, keep_blank_values=True))
    for option in options:
        if option not in _OPTIONS[provider]:
            raise SettingsError(
                f"objects {where}: no option {option[:40]!r}; {did_you_mean(option, _OPTIONS[provider])}"
            )
    endpoint = options.get("endpoint", "")
    reached = endpoint or next((environment[key] for key in _ENDPOINTS[provider] if environment.get(key)), "")
    plain_http, is_near = reached.startswith("http://"), False
    if reached:
        server = urlsplit(reached)
        if server.scheme not in {"http", "https"} or not server.hostname or server.username or server.query:
            raise SettingsError(
                f"objects {where}: the endpoint must be http://HOST:PORT or https://HOST, without a secret"
            )
        is_near = is_loopback(server.hostname)
        if plain_http and not is_near and options.get("allow_http", "").lower() not in _ON:
            raise SettingsError(
                f"objects {where}: the endpoint {server.hostname} is reached without TLS: use https://, or write "
                "?allow_http=true if no other host can listen"
            )
    return Bucket(provider, name, prefix, endpoint, options.get("region", ""), plain_http, is_near, where)
