"""Fuzzes a served gateway by its own OpenAPI document: every answer has to be one that the document describes."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import httpx

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
PHASES = "examples,coverage,fuzzing,stateful"


def fuzz(url, key, folder, *, seed, examples, timeout_s):
    """Schemathesis's exit code (0: nothing found) and report; what it keeps, it keeps in `folder`."""
    described = httpx.get(f"{url}/openapi.json").json()["paths"]["/v1/pipelines/{name}/runs"]["post"]["requestBody"]
    body = described["content"]["application/json"]["schema"]["properties"]
    assert body["webhook"]["type"] == "null", "webhooks to made-up addresses would be sent"
    path = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
    done = subprocess.run(
        [
            *(Path(sys.executable).with_name("schemathesis"), "--config-file", HERE / "schemathesis.toml"),
            *("run", f"{url}/openapi.json", "--phases", PHASES, "--header", f"Authorization: Bearer {key}"),
            *("--seed", str(seed), "--max-examples", str(examples)),
        ],
        cwd=folder,
        env=os.environ | {"PYTHONPATH": path, "SCHEMATHESIS_HOOKS": str(HERE / "answers.py")},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=timeout_s,
        check=False,
    )
    return done.returncode, done.stdout
