"""The Kubernetes manifests as data: the objects, and what the one container of each role gets."""

from __future__ import annotations

from tests.deploy.files import BASE, DEPLOY, documents, load, variables

SECRETS = {each["metadata"]["name"]: each for each in documents(DEPLOY / "kubernetes" / "secrets.example.yaml")}
BUILT = load(BASE / "kustomization.yaml")
PARTS = [each for name in BUILT["resources"] for each in documents(BASE / name)]
SETTINGS = variables(BASE / "settings.env")
ROLES = ["gateway", "worker"]


def named(kind, name):
    [found] = [each for each in PARTS if each["kind"] == kind and each["metadata"]["name"] == name]
    return found


def pod(role):
    return named("Deployment", f"offramp-{role}")["spec"]["template"]["spec"]


def container(role):
    [found] = pod(role)["containers"]
    return found


def labels(role):
    return named("Deployment", f"offramp-{role}")["spec"]["template"]["metadata"]["labels"]


def hook_s(role):
    """How long its `preStop` sleeps."""
    return container(role).get("lifecycle", {}).get("preStop", {}).get("sleep", {}).get("seconds", 0)


def environment(role):
    """What the container sees, with the engine of `base`."""
    found = {}
    for source in container(role)["envFrom"]:
        if "configMapRef" in source:
            assert source["configMapRef"]["name"] in {each["name"] for each in BUILT["configMapGenerator"]}
            found |= SETTINGS
        else:
            found |= SECRETS[source["secretRef"]["name"]]["stringData"]
    return found | {each["name"]: each["value"] for each in container(role)["env"]}
