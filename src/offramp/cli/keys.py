"""`offramp keys add`, `list` and `revoke`: change the file of API keys; running gateways notice it by themselves."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Annotated, Any

import typer

from offramp.cli.engines import load_settings
from offramp.cli.options import AsJson, Data, Engine
from offramp.cli.output import OK, console, say, write_json
from offramp.core.keys import (
    DEFAULT_TENANT,
    SCOPES_DEFAULT,
    parse_keys,
    require_runs,
    require_scopes,
    shown_scopes,
    shown_tenant,
)
from offramp.core.rates import parse_rate

if TYPE_CHECKING:
    from offramp.core.keys import Key
    from offramp.settings import Settings

Name = Annotated[str, typer.Argument(metavar="NAME", help="The key's name; requests do not send it.")]


def add(
    name: Name,
    *,
    tenant: Annotated[str, typer.Option("--tenant", help="The tenant whose runs it starts and sees.")] = DEFAULT_TENANT,
    scope: Annotated[
        list[str] | None,
        typer.Option(
            "--scope",
            metavar="SCOPE,...",
            help="What it may do: run (start, read, cancel, signal and retry runs), read (read alone), inspect "
            "(read inputs, arguments and tracebacks too), operate (read, cancel, signal and retry). Default: run.",
        ),
    ] = None,
    rate: Annotated[
        str | None,
        typer.Option("--rate", metavar="N/TIME", help="How many runs it may start, as 100/min. Default: no limit."),
    ] = None,
    runs: Annotated[
        int | None,
        typer.Option("--runs", metavar="N", help="How many of its runs may be open at once. Default: no limit."),
    ] = None,
    data: Data = None,
    engine: Engine = None,
) -> int:
    """Make an API key and print its secret, which is not shown again.

    Only a hash is stored. Running gateways accept the key within a second.

    offramp keys add support --tenant acme --scope read,inspect

    offramp keys add ann --rate 100/min --runs 50
    """
    from offramp.gateway.keyfile import add_key
    from offramp.gateway.keyring import file_of

    given = shown_scopes(SCOPES_DEFAULT) if scope is None else ",".join(scope).split(",")
    scopes = require_scopes([each.strip() for each in given if each.strip()])
    file = file_of(load_settings(data=data, engine=engine))
    limit = None if rate is None else parse_rate(rate, "--rate")
    most = None if runs is None else require_runs(runs, "--runs")
    secret = add_key(file, name, tenant, scopes, rate=limit, runs=most)
    print(secret, flush=True)
    may = ",".join(shown_scopes(scopes))
    may += "" if limit is None else f", rate {limit}"
    may += "" if most is None else f", {most} runs at once"
    say(f"key {name!r} of tenant {tenant!r}, scope {may}, is in {file}, hashed: the secret above is not shown again")
    return OK


def list_keys(*, as_json: AsJson = False, data: Data = None, engine: Engine = None) -> int:
    """List the keys by name, with their tenants, scopes and limits; their secrets are not stored."""
    settings = load_settings(data=data, engine=engine)
    found = _listed(settings)
    if as_json:
        write_json({"keys": found})
        return OK
    if not found:
        say("no keys; 'offramp keys add NAME' makes one")
        return OK
    from rich.table import Table

    table = Table(box=None, pad_edge=False)
    for title in ("name", "tenant", "scopes", "rate", "runs", "made at", "kept in"):
        table.add_column(title, header_style="dim")
    for key in found:
        may = ",".join(key["scopes"]), key["rate"] or "", str(key["runs"] or "")
        table.add_row(key["name"], key["tenant"], *may, key["created_at"] or "", key["source"])
    console(sys.stdout).print(table)
    return OK


def _listed(settings: Settings) -> list[dict[str, Any]]:
    from offramp.gateway.keyfile import read_keys
    from offramp.gateway.keyring import file_of

    found: list[dict[str, Any]] = []
    if settings.api_keys:
        found += [
            _described(key, None, "OFFRAMP_API_KEYS") for key in parse_keys(settings.api_keys, "OFFRAMP_API_KEYS")
        ]
    file = file_of(settings)
    if file.exists():
        found += [_described(entry.key, entry.created_at, str(file)) for entry in read_keys(file)]
    return found


def _described(key: Key, created_at: str | None, source: str) -> dict[str, Any]:
    return {
        "name": key.name,
        "tenant": shown_tenant(key.tenant),
        "scopes": shown_scopes(key.scopes),
        "rate": None if key.rate is None else str(key.rate),
        "runs": key.runs,
        "created_at": created_at,
        "source": source,
    }


def revoke(name: Name, *, data: Data = None, engine: Engine = None) -> int:
    """Revoke an API key.

    Running gateways refuse it within a second and end the streams that it opened. Its runs continue.
    """
    from offramp.gateway.keyfile import revoke_key
    from offramp.gateway.keyring import file_of

    file = file_of(load_settings(data=data, engine=engine))
    left = revoke_key(file, name)
    say(f"key {name!r} is revoked")
    if not left:
        say(f"it was the last one in {file}: requests still need a key; remove that file to serve without keys")
    return OK
