"""Engine URLs, and what `offramp doctor` says of the server behind one."""

from __future__ import annotations

import subprocess
import sys

import pytest

from offramp import wiring
from offramp.app import App
from offramp.cli.check_temporal import check_temporal
from offramp.engines.temporal.address import Address
from offramp.errors import SettingsError
from offramp.settings import Settings
from tests import servers, temporal

HERE = "temporal://127.0.0.1:7233/default"


def test_an_address_is_read_with_its_defaults():
    address = Address.parse("temporal://temporal.internal")
    assert (address.target, address.namespace, address.task_queue) == ("temporal.internal:7233", "default", "offramp")
    assert address.tls_config() is False
    address = Address.parse("temporal://[::1]:17233/agents?task_queue=desk&deployment=desk&build_id=7")
    assert (address.target, address.namespace, address.task_queue) == ("[::1]:17233", "agents", "desk")
    assert (address.deployment, address.build_id) == ("desk", "7")


def test_tls_is_on_where_a_file_is_named(tmp_path):
    (tmp_path / "ca").write_bytes(b"authority")
    config = Address.parse(f"temporal://cloud:7233/ns?tls_ca={tmp_path / 'ca'}&tls_name=inner").tls_config()
    assert (config.server_root_ca_cert, config.domain) == (b"authority", "inner")


@pytest.mark.parametrize(
    ("url", "says"),
    [
        ("temporal:", "expected temporal://host:port/namespace"),
        (f"{HERE}?task_que=a", "did you mean 'task_queue'"),
        (f"{HERE}?tls=maybe", "tls= is true or false"),
        (f"{HERE}?tls_cert=a", "tls_cert= and tls_key= come together"),
        (f"{HERE}?build_id=a", "deployment= and build_id= come together"),
        ("temporal://host:port/x", "Port could not be cast"),
        ("temporal://key:secret@host/x", "OFFRAMP_TEMPORAL_API_KEY"),
    ],
)
def test_an_address_that_does_not_fit_is_refused(url, says):
    with pytest.raises(SettingsError, match=says) as refused:
        Address.parse(url)
    assert "secret@" not in str(refused.value)


def test_a_file_that_is_not_there_is_named():
    with pytest.raises(SettingsError, match="/absent cannot be read"):
        Address.parse(f"{HERE}?tls_ca=/absent").tls_config()


def test_the_wiring_refuses_a_wrong_address(tmp_path):
    with pytest.raises(SettingsError, match="task_queue"):
        wiring.build(App("a"), Settings(engine=f"{HERE}?queue=x", data=str(tmp_path)), role="gateway")


def test_nothing_of_temporal_is_loaded_without_it():
    code = (
        "import sys, offramp.wiring, offramp.cli.doctor; print([m for m in sys.modules if m.startswith('temporalio')])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def findings(url, **settings):
    return {(found.level, found.about): found.says for found in check_temporal(Settings(engine=url, **settings))}


def test_the_doctor_looks_at_the_server(url):
    seen = findings(url)
    assert temporal.server().target in seen["ok", "temporal"]
    assert "no worker has polled it" in seen["note", "task queue"]


def test_the_doctor_says_what_is_wrong_with_a_server():
    assert findings("embedded:") == {}
    assert "does not answer" in findings(f"temporal://127.0.0.1:{servers.free_port()}/x")["broken", "temporal"]
    assert "no option 'queue'" in findings(f"{HERE}?queue=x")["broken", "temporal"]
