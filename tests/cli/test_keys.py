import json
import re
import signal
import stat
import time

import httpx
import pytest

from offramp.cli.check_keys import check_keys
from offramp.cli.findings import exit_code
from offramp.gateway.keyfile import add_key, revoke_key
from offramp.settings import Settings
from tests.cli.conftest import warm
from tests.cli.harness import WAIT_S, offramp, running

QUESTION = '{"question": "why"}'


def add(project, *arguments, env=None):
    done = offramp("keys", "add", *arguments, cwd=project, env=env)
    assert done.returncode == 0, done.stderr
    return done


def bearer(secret):
    return {"Authorization": f"Bearer {secret}"}


def until(condition):
    """The gateway looks at the file once a second; nothing tells when it did."""
    ends_at = time.monotonic() + WAIT_S
    while not condition():
        assert time.monotonic() < ends_at
        time.sleep(0.05)


def test_the_secret_is_on_stdout_alone_and_nowhere_else(project):
    done = add(project, "alice", "--tenant", "acme")
    assert re.fullmatch(r"ofk_[A-Za-z0-9_-]{43}\n", done.stdout)
    secret = done.stdout.strip()
    assert secret not in done.stderr
    assert "key 'alice' of tenant 'acme'" in done.stderr
    file = project / ".offramp" / "keys.json"
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert secret not in file.read_text()
    listed = offramp("keys", "list", cwd=project)
    assert re.search(r"alice +acme +run +20\d\d-", listed.stdout)
    assert secret not in listed.stdout


def test_a_list_has_the_keys_of_the_environment_too_without_their_secrets(project):
    made = add(project, "alice", "--scope", "run", "--scope", "inspect, run")
    assert "scope run,inspect" in made.stderr
    env = {"OFFRAMP_API_KEYS": "acme/env+operate:0123456789abcdef"}
    listed = offramp("keys", "list", "--json", cwd=project, env=env)
    found = json.loads(listed.stdout)["keys"]
    assert [(key["name"], key["tenant"], key["scopes"], key["source"]) for key in found] == [
        ("env", "acme", ["operate"], "OFFRAMP_API_KEYS"),
        ("alice", "default", ["run", "inspect"], ".offramp/keys.json"),
    ]
    assert "0123456789abcdef" not in listed.stdout + listed.stderr


def test_limits_are_stored_and_listed_and_a_file_from_before_them_is_read(project):
    add(project, "bob")
    assert not {"rate", "runs"} & json.loads((project / ".offramp" / "keys.json").read_text())["keys"][0].keys()
    made = add(project, "alice", "--rate", "100/minute", "--runs", "50")
    assert "rate 100/min, 50 runs at once" in made.stderr
    env = {"OFFRAMP_API_KEYS": "acme/env+run+rate=1000/12h+runs=5:0123456789abcdef"}
    listed = json.loads(offramp("keys", "list", "--json", cwd=project, env=env).stdout)["keys"]
    found = [(key["name"], key["tenant"], key["scopes"], key["rate"], key["runs"]) for key in listed]
    assert found == [
        ("env", "acme", ["run"], "1000/12h", 5),
        ("bob", "default", ["run"], None, None),
        ("alice", "default", ["run"], "100/min", 50),
    ]
    assert re.search(r"alice +default +run +100/min +50 +20\d\d-", offramp("keys", "list", cwd=project).stdout)


def test_a_limit_that_is_used_is_said_on_the_command_line_with_what_to_do(project):
    secret = add(project, "alice", "--rate", "1/h").stdout.strip()
    with running("serve", "desk.py", "--port", "0", "--workers", "0", cwd=project) as command:
        url = command.wait_for(r"at (http://[\d.:]+),")[1]
        submit = ("submit", "ask", "--input", QUESTION, "--url", url)
        assert offramp(*submit, cwd=project, env={"OFFRAMP_API_KEY": secret}).returncode == 0
        refused = offramp(*submit, cwd=project, env={"OFFRAMP_API_KEY": secret})
        assert refused.returncode == 3
        assert "as many runs as its rate allows, 1/h" in refused.stderr


def test_the_file_may_be_elsewhere(project):
    env = {"OFFRAMP_API_KEYS_FILE": "elsewhere/k.json"}
    add(project, "alice", env=env)
    assert (project / "elsewhere" / "k.json").exists()
    assert not (project / ".offramp").exists()
    add(project, "bob", "--data", "other")
    assert (project / "other" / "keys.json").exists()


@pytest.mark.parametrize(
    ("arguments", "judged"),
    [
        (("add", "alice"), "exists"),
        (("add", "no spaces"), "is 1 to 64 letters"),
        (("add", "x", "--tenant", "a/b"), "the tenant is 1 to 64"),
        (("add", "x", "--scope", "run,inspec"), "did you mean 'inspect'?"),
        (("add", "x", "--scope", ","), "at least one scope"),
        (("add", "x", "--rate", "100"), "--rate is a number per time, such as 100/min"),
        (("add", "x", "--rate", "0/s"), "--rate is from 1 to 10000"),
        (("add", "x", "--runs", "0"), "--runs is from 1 to 10000"),
        (("revoke", "alic"), "did you mean 'alice'?"),
        (("revoke", "alice", "--data", "nowhere"), "--data"),
    ],
)
def test_wrong_usage_is_one_line_and_2(project, arguments, judged):
    add(project, "alice")
    done = offramp("keys", *arguments, cwd=project)
    assert done.returncode == 2
    assert judged in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_the_last_key_that_is_revoked_leaves_the_door_shut(project):
    add(project, "alice")
    done = offramp("keys", "revoke", "alice", cwd=project)
    assert done.returncode == 0
    assert "requests still need a key" in done.stderr
    assert offramp("keys", "list", cwd=project).stdout == ""


def test_without_keys_it_is_for_this_machine_and_says_so(project):
    refused = offramp("serve", "desk.py", "--host", "0.0.0.0", "--port", "0", cwd=project)
    assert refused.returncode == 2
    assert "offramp keys add" in refused.stderr
    with running("serve", "desk.py", "--port", "0", "--workers", "0", cwd=project) as command:
        url = command.wait_for(r"at (http://[\d.:]+),")[1]
        command.wait_for("no API keys: serving this machine only")
        with httpx.Client(base_url=url, trust_env=False) as web:
            assert web.get("/v1/runs").status_code == 200
            assert web.get("/v1/runs", headers={"Host": "evil.example"}).status_code == 421
            assert web.get("/healthz", headers={"Host": "evil.example"}).status_code == 200


@pytest.mark.parametrize(
    ("arguments", "env"), [(("--allow-host", "desk.test"), {}), ((), {"OFFRAMP_ALLOW_HOSTS": "x.test,desk.test"})]
)
def test_a_host_may_be_allowed(project, arguments, env):
    with running("serve", "desk.py", "--port", "0", "--workers", "0", *arguments, cwd=project, env=env) as command:
        url = command.wait_for(r"at (http://[\d.:]+),")[1]
        with httpx.Client(base_url=url, trust_env=False) as web:
            assert web.get("/v1/runs", headers={"Host": "desk.test"}).status_code == 200
            assert web.get("/v1/runs", headers={"Host": "evil.test"}).status_code == 421


@pytest.mark.parametrize(
    ("arguments", "env"),
    [
        (("--cors", "http://localhost:5173", "--cors", "https://App.example"), {}),
        ((), {"OFFRAMP_CORS_ORIGINS": "https://app.example"}),
        (("--cors", "*"), {}),
    ],
)
def test_pages_of_an_origin_may_be_allowed(project, arguments, env):
    with running("serve", "desk.py", "--port", "0", "--workers", "0", *arguments, cwd=project, env=env) as command:
        url = command.wait_for(r"at (http://[\d.:]+),")[1]
        with httpx.Client(base_url=url, trust_env=False) as web:
            answer = web.get("/v1/runs", headers={"Origin": "https://app.example"})
    assert answer.status_code == 200
    assert answer.headers["access-control-allow-origin"] in {"https://app.example", "*"}


def test_pages_of_all_origins_are_refused_with_keys_and_so_is_what_is_no_origin(project):
    add(project, "ann")
    refused = offramp("serve", "desk.py", "--port", "0", "--cors", "*", cwd=project)
    assert (refused.returncode, len(refused.stderr.splitlines())) == (2, 1)
    assert "--cors" in refused.stderr
    refused = offramp("serve", "desk.py", "--port", "0", "--cors", "app.example", cwd=project)
    assert (refused.returncode, len(refused.stderr.splitlines())) == (2, 1)
    assert "such as https://app.example" in refused.stderr


def test_insecure_is_said(project):
    arguments = ("--host", "0.0.0.0", "--port", "0", "--workers", "0", "--insecure")
    with running("serve", "desk.py", *arguments, cwd=project) as command:
        command.wait_for("warning: no API keys, and others can reach 0.0.0.0")


def test_keys_let_others_in_and_keys_come_and_go_while_it_serves(project):
    ann = add(project, "ann", "--tenant", "acme").stdout.strip()
    with running("serve", "desk.py", "--host", "0.0.0.0", "--port", "0", cwd=project) as command:
        port = command.wait_for(r"at http://0\.0\.0\.0:(\d+),")[1]
        command.wait_for("1 API key of 1 tenant")
        warm(command)
        url = f"http://127.0.0.1:{port}"
        mine = ("submit", "explain", "-i", QUESTION, "--url", url)
        refused = offramp(*mine, cwd=project)
        assert (refused.returncode, refused.stdout) == (3, "")
        assert "OFFRAMP_API_KEY" in refused.stderr
        done = offramp(*mine, "--follow", cwd=project, env={"OFFRAMP_API_KEY": ann})
        assert (done.returncode, done.stdout) == (0, '"why WHY"\n'), done.stderr
        with httpx.Client(base_url=url, trust_env=False) as web:
            runs = web.get("/v1/runs", headers=bearer(ann)).json()["runs"]
            assert len(runs) == 1
            seen = offramp("show", runs[0]["id"], "--url", url, cwd=project, env={"OFFRAMP_API_KEY": ann})
            assert (seen.returncode, "completed" in seen.stdout) == (0, True), seen.stderr
            steps = offramp("show", runs[0]["id"], "--steps", "--url", url, cwd=project, env={"OFFRAMP_API_KEY": ann})
            assert (steps.returncode, "the scope 'inspect'" in steps.stderr) == (3, True)
            bob = add(project, "bob", "--tenant", "beta").stdout.strip()
            until(lambda: web.get("/v1/runs", headers=bearer(bob)).status_code == 200)
            assert web.get("/v1/runs", headers=bearer(bob)).json()["runs"] == []
            assert web.get(f"/v1/runs/{runs[0]['id']}", headers=bearer(bob)).status_code == 404
            assert offramp("keys", "revoke", "ann", cwd=project).returncode == 0
            until(lambda: web.get("/v1/runs", headers=bearer(ann)).status_code == 401)
            assert web.get("/v1/runs", headers=bearer(bob)).status_code == 200
        command.send(signal.SIGTERM)
        code, stdout, stderr = command.end()
    assert code == 0
    for secret in (ann, bob):
        assert secret not in stdout + stderr


def test_steps_are_not_handed_the_keys_of_the_callers(project):
    (project / "spy.py").write_text(
        "import os\nfrom offramp import SLA, App\napp = App('spy', classes=[SLA('batch', budget=0)])\n\n"
        "@app.step\nasync def look() -> str:\n    return os.environ.get('OFFRAMP_API_KEYS', 'nothing')\n\n"
        "@app.pipeline(sla='batch')\nasync def spy() -> str:\n    return await look()\n"
    )
    secret = "0123456789abcdef"
    env = {"OFFRAMP_API_KEYS": f"ann:{secret}"}
    with running("serve", "spy.py", "--port", "0", cwd=project, env=env) as command:
        url = command.wait_for(r"at (http://[\d.:]+),")[1]
        warm(command)
        asked = ("submit", "spy", "--async", "--follow", "--url", url)
        done = offramp(*asked, cwd=project, env={"OFFRAMP_API_KEY": secret})
        assert (done.returncode, done.stdout) == (0, '"nothing"\n'), done.stderr


class TestDoctor:
    @pytest.fixture
    def settings(self, tmp_path):
        return Settings(data=str(tmp_path))

    def judged(self, settings, host="127.0.0.1"):
        return [(finding.level, finding.says) for finding in check_keys(settings, host)]

    def test_without_keys(self, settings):
        assert self.judged(settings) == [("ok", "no API keys: the gateway serves this machine only")]
        ((level, says),) = self.judged(settings, "0.0.0.0")
        assert (level, "serve refuses to start" in says) == ("risk", True)

    def test_with_keys(self, settings, tmp_path):
        add_key(tmp_path / "keys.json", "ann", "acme")
        assert self.judged(settings) == [("ok", "1 API key; tenants: acme")]
        assert [level for level, _ in self.judged(settings, "0.0.0.0")] == ["ok", "note"]
        revoke_key(tmp_path / "keys.json", "ann")
        ((level, says),) = self.judged(settings)
        assert (level, "every request is refused" in says) == ("risk", True)

    def test_pages_of_other_origins(self, tmp_path):
        every = Settings(data=str(tmp_path), cors_origins="*")
        assert [level for level, _ in self.judged(every)] == ["risk", "ok"]
        named = Settings(data=str(tmp_path), cors_origins="https://app.example")
        assert self.judged(named)[0] == ("ok", "pages that may use the gateway: https://app.example")
        add_key(tmp_path / "keys.json", "ann", "acme")
        (level, says), _ = self.judged(every)
        assert (level, "serve refuses to start" in says) == ("broken", True)
        assert [level for level, _ in self.judged(named)] == ["ok", "ok"]

    @pytest.mark.parametrize(("mode", "level"), [(0o644, "risk"), (0o622, "broken"), (0o600, "ok")])
    def test_who_may_read_and_write_the_file(self, settings, tmp_path, mode, level):
        add_key(tmp_path / "keys.json", "ann", "acme")
        (tmp_path / "keys.json").chmod(mode)
        assert self.judged(settings)[0][0] == level

    def test_what_is_broken_is_told_without_the_secret(self, tmp_path):
        found = list(check_keys(Settings(api_keys="ann:tooshort", data=str(tmp_path)), "127.0.0.1"))
        assert exit_code(found) == 1
        assert "tooshort" not in repr(found)

    def test_the_command_tells(self, project):
        add(project, "ann")
        done = offramp("doctor", "desk.py", "--port", "0", cwd=project)
        assert done.returncode == 0, done.stdout
        assert "keys: 1 API key; tenants: default" in done.stdout
