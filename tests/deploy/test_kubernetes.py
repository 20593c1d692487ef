"""The manifests against Kubernetes' schemas and the code: settings, commands, probes, metrics, time to drain."""

from __future__ import annotations

import re

import kubernetes_validate
import pytest
import yaml

from offramp.core.addresses import parse_listen
from offramp.core.scaling import FULL_SHARE
from offramp.engines.temporal.address import Address
from offramp.errors import SettingsError
from offramp.gateway.access import Access
from offramp.gateway.health import OPERATIONS
from offramp.gateway.probes import TURN_S_MAX, probes
from offramp.telemetry.instruments import INSTRUMENTS
from tests.deploy.files import (
    BASE,
    DEPLOY,
    GATEWAY_CLOSING_S,
    PINNED,
    PROJECT,
    ROOT,
    TEMPORAL,
    WORKER_CLOSING_S,
    commanded,
    instructions,
    load,
    quantity_bytes,
    settings,
)
from tests.deploy.manifests import (
    BUILT,
    PARTS,
    ROLES,
    SECRETS,
    container,
    environment,
    hook_s,
    labels,
    named,
    pod,
)

# Of KEDA's and Prometheus' own resources there is no schema here.
CUSTOM = {"keda.sh/v1alpha1", "monitoring.coreos.com/v1"}
CORE = [each for each in [*PARTS, *SECRETS.values()] if each["apiVersion"] not in CUSTOM]
VERSIONS = ["1.30", kubernetes_validate.latest_version()]
"""The oldest has `preStop.sleep`."""
CLOSING_S = {"gateway": GATEWAY_CLOSING_S, "worker": WORKER_CLOSING_S}
# bench/README.md, waiting.py: with 10,000 waiting runs, and for each open stream.
GATEWAY_MB, STREAM_KB, WORKER_MB = 65, 23.4, 64
STREAMS = 5_000


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("part", CORE, ids=lambda part: f"{part['kind']}/{part['metadata']['name']}")
def test_a_manifest_fits_its_schema(part, version):
    kubernetes_validate.validate(part, version, strict=True)


def test_a_misspelt_field_would_be_found():
    part = {**named("Service", "offramp-gateway"), "spec": {"sellector": {}}}
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(part, VERSIONS[0], strict=True)


def test_every_file_belongs_to_what_is_applied():
    for folder in (BASE, TEMPORAL):
        built = load(folder / "kustomization.yaml")
        listed = {name for name in built["resources"] if name.endswith(".yaml")}
        listed |= {patch["path"] for patch in built.get("patches", [])}
        listed |= {name for each in built["configMapGenerator"] for name in each.get("envs", [])}
        assert {path.name for path in folder.iterdir()} == listed | {"kustomization.yaml"}
    assert load(TEMPORAL / "kustomization.yaml")["resources"] == ["../base"]
    assert (DEPLOY / "kubernetes" / "secrets.example.yaml").is_file()


def test_there_is_one_of_each():
    kinds = sorted((each["kind"], each["metadata"]["name"]) for each in PARTS)
    assert kinds == [
        ("Deployment", "offramp-gateway"),
        ("Deployment", "offramp-worker"),
        ("PodDisruptionBudget", "offramp-gateway"),
        ("PodDisruptionBudget", "offramp-worker"),
        ("PodMonitor", "offramp-gateway"),
        ("PodMonitor", "offramp-worker"),
        ("ScaledObject", "offramp-worker"),
        ("Service", "offramp-gateway"),
    ]


@pytest.mark.parametrize("role", ROLES)
def test_settings_are_known_and_fit(role):
    made = settings(environment(role))
    assert made.store.startswith("rediss://")
    assert made.engine == "embedded:"
    assert made.objects.startswith("s3://")


def test_the_engine_of_the_other_variant_fits():
    [generator] = load(TEMPORAL / "kustomization.yaml")["configMapGenerator"]
    assert (generator["name"], generator["behavior"]) == (BUILT["configMapGenerator"][0]["name"], "merge")
    given = dict(literal.split("=", 1) for literal in generator["literals"])
    address = Address.parse(settings(environment("worker") | given).engine)
    assert address.task_queue == "desk"


def test_the_example_of_secrets_starts_nothing_and_only_gateways_have_keys():
    made = settings(environment("gateway"))
    with pytest.raises(SettingsError, match="16"):
        Access.of(made, environment("gateway")["OFFRAMP_HOST"])
    assert "OFFRAMP_API_KEYS" not in environment("worker")
    assert {each["metadata"]["namespace"] for each in SECRETS.values()} == {BUILT["namespace"]}


@pytest.mark.parametrize("role", ROLES)
def test_it_starts_what_the_program_has(role):
    given = commanded(container(role)["args"])
    assert given["target"] == commanded(container("gateway")["args"])["target"]
    if role == "gateway":
        assert str(given["workers"]) == "0"


@pytest.mark.parametrize("role", ROLES)
def test_the_image_is_ours_and_pinned(role):
    [image] = BUILT["images"]
    assert container(role)["image"] == image["name"]
    assert PINNED.fullmatch(f"{image['newName']}:{image['newTag']}")
    assert image["newTag"] == PROJECT["version"]


@pytest.mark.parametrize("role", ROLES)
def test_ports_are_those_it_listens_on(role):
    variables_ = environment(role)
    listens = (
        int(variables_["OFFRAMP_PORT"]) if role == "gateway" else parse_listen(variables_["OFFRAMP_WORKER_METRICS"])[1]
    )
    [port] = container(role)["ports"]
    assert port["containerPort"] == listens
    for probe in ("startupProbe", "livenessProbe", "readinessProbe"):
        assert container(role)[probe]["httpGet"]["port"] == port["name"]
    monitor = named("PodMonitor", f"offramp-{role}")
    assert monitor["apiVersion"] == "monitoring.coreos.com/v1"
    assert set(monitor["spec"]) == {"selector", "podMetricsEndpoints"}
    [endpoint] = monitor["spec"]["podMetricsEndpoints"]
    assert set(endpoint) - {"authorization"} == {"port", "path", "interval"}
    assert (endpoint["port"], endpoint["path"]) == (port["name"], "/metrics")


def test_the_service_reaches_the_gateways():
    service = named("Service", "offramp-gateway")["spec"]
    assert service["ports"][0]["targetPort"] == container("gateway")["ports"][0]["name"]
    assert service["selector"].items() <= labels("gateway").items()


@pytest.mark.parametrize("role", ROLES)
def test_selectors_find_their_pods_and_no_others(role):
    other = labels(next(each for each in ROLES if each != role))
    selectors = [
        named("Deployment", f"offramp-{role}")["spec"]["selector"],
        named("PodDisruptionBudget", f"offramp-{role}")["spec"]["selector"],
        named("PodMonitor", f"offramp-{role}")["spec"]["selector"],
        *(each["labelSelector"] for each in pod(role)["topologySpreadConstraints"]),
    ]
    for selector in selectors:
        assert selector["matchLabels"].items() <= labels(role).items()
        assert not selector["matchLabels"].items() <= other.items()


@pytest.mark.parametrize("role", ROLES)
def test_a_stopping_pod_has_time_to_drain(role):
    drain_s = settings(environment(role)).drain_timeout
    assert pod(role)["terminationGracePeriodSeconds"] >= hook_s(role) + drain_s + CLOSING_S[role]
    assert CLOSING_S[role] <= {"gateway": 40, "worker": 30}[role], "what the comments say"
    assert (hook_s(role) > 0) == (role == "gateway"), "only gateways are routed to"


@pytest.mark.parametrize("role", ROLES)
def test_probes_ask_what_is_served(role):
    served = {route.template for route in OPERATIONS.routes if route.guard == "health"}
    if role == "worker":
        served &= set(probes(None))
    found = {probe: container(role)[f"{probe}Probe"] for probe in ("startup", "liveness", "readiness")}
    assert {each["httpGet"]["path"] for each in found.values()} <= served
    # A restart brings neither the store nor Temporal back, so what asks for those is no liveness.
    assert found["liveness"]["httpGet"]["path"] == "/healthz"
    assert found["readiness"]["httpGet"]["path"] == "/readyz"
    assert found["liveness"]["timeoutSeconds"] > TURN_S_MAX
    patience_s = found["readiness"]["periodSeconds"] * found["readiness"]["failureThreshold"]
    assert patience_s > settings(environment(role)).lease
    assert found["startup"]["periodSeconds"] * found["startup"]["failureThreshold"] >= 60


@pytest.mark.parametrize("role", ROLES)
def test_a_container_may_do_no_more_than_it_has_to(role):
    of_pod, of_container = pod(role)["securityContext"], container(role)["securityContext"]
    [user] = [rest for word, rest in instructions() if word == "USER"]
    assert of_pod["runAsNonRoot"] is True
    assert f"{of_pod['runAsUser']}:{of_pod['runAsGroup']}" == user
    assert of_pod["seccompProfile"] == {"type": "RuntimeDefault"}
    assert of_container == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
    assert pod(role)["automountServiceAccountToken"] is False
    assert pod(role)["enableServiceLinks"] is False, "OFFRAMP_GATEWAY_PORT is no setting"


@pytest.mark.parametrize("role", ROLES)
def test_what_is_written_has_a_place(role):
    [mount] = container(role)["volumeMounts"]
    assert mount["name"] in {volume["name"] for volume in pod(role)["volumes"]}
    [environ] = [rest for word, rest in instructions() if word == "ENV" and "HOME=" in rest]
    for name in ("HOME", "OFFRAMP_DATA"):
        assert re.search(rf"{name}=(\S+)", environ)[1].startswith(mount["mountPath"])


@pytest.mark.parametrize("role", ROLES)
def test_memory_is_what_was_measured_and_more(role):
    measured = (ROOT / "bench" / "README.md").read_text(encoding="utf-8")
    assert f"| memory per open stream, kB | 24.5 | {STREAM_KB} |" in measured
    needed = GATEWAY_MB * 1e6 + STREAMS * STREAM_KB * 1e3 if role == "gateway" else WORKER_MB * 1e6
    resources = container(role)["resources"]
    assert quantity_bytes(resources["requests"]["memory"]) >= needed
    assert quantity_bytes(resources["limits"]["memory"]) >= 2 * needed
    assert "cpu" in resources["requests"]
    assert "cpu" not in resources["limits"], "throttled is late"


@pytest.mark.parametrize("role", ROLES)
def test_rollouts_and_drains_of_nodes_leave_enough(role):
    spec = named("Deployment", f"offramp-{role}")["spec"]
    assert spec["strategy"]["rollingUpdate"] == {"maxSurge": 1, "maxUnavailable": 0}
    assert named("PodDisruptionBudget", f"offramp-{role}")["spec"]["maxUnavailable"] == 1
    if role == "gateway":
        assert spec["replicas"] >= 2
    else:
        assert "replicas" not in spec, "the scaler's"
        assert named("ScaledObject", "offramp-worker")["spec"]["minReplicaCount"] >= 2


def test_the_scaler_asks_for_metrics_that_exist():
    """KEDA's resources have no schema here: what is used of them is written down."""
    scaler = named("ScaledObject", "offramp-worker")
    assert scaler["apiVersion"] == "keda.sh/v1alpha1"
    spec = scaler["spec"]
    assert set(spec) == {
        "scaleTargetRef",
        "minReplicaCount",
        "maxReplicaCount",
        "pollingInterval",
        "advanced",
        "triggers",
    }
    assert spec["scaleTargetRef"]["name"] == named("Deployment", "offramp-worker")["metadata"]["name"]
    assert spec["minReplicaCount"] < spec["maxReplicaCount"]
    [trigger] = spec["triggers"]
    assert (trigger["type"], trigger["metricType"]) == ("prometheus", "AverageValue")
    metadata = trigger["metadata"]
    assert set(metadata) == {"serverAddress", "query", "threshold", "ignoreNullValues"}
    [query] = re.findall(r"max\((offramp_\w+)\{(.*)\}\)", metadata["query"])
    assert query == (
        "offramp_workers_needed",
        f'namespace="{BUILT["namespace"]}",container="{container("gateway")["name"]}"',
    )
    assert query[0] in {each.shown_name for each in INSTRUMENTS}
    assert (metadata["threshold"], metadata["ignoreNullValues"]) == ("1", "false")
    assert FULL_SHARE == 0.8, "what the comment says"
    page = (ROOT / "docs" / "how-to" / "scaling.md").read_text(encoding="utf-8")
    [shown] = re.findall(r"```yaml\n(triggers:.*?)```", page, re.DOTALL)
    assert yaml.safe_load(shown)["triggers"] == spec["triggers"]


def test_prometheus_has_a_key_for_gateways():
    [endpoint] = named("PodMonitor", "offramp-gateway")["spec"]["podMetricsEndpoints"]
    credentials = endpoint["authorization"]["credentials"]
    assert credentials["key"] in SECRETS[credentials["name"]]["stringData"]
    # A key without a tenant, as /metrics is the operator's.
    assert SECRETS["offramp-gateway"]["stringData"]["OFFRAMP_API_KEYS"].startswith("prometheus:")
