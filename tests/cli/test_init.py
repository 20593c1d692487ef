"""`offramp init`: each template runs as printed; what is there already is left alone."""

import http.server
import json
import os
import re
import shlex
import socket
import threading
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path

import pytest

from offramp.cli.init import TEMPLATES
from tests.cli.commands import BIN, arguments, missing, typed
from tests.cli.harness import offramp, running
from tests.docs.pages import ROOT

WORDS = ["A", "few", "words."]


class Model(http.server.BaseHTTPRequestHandler):
    """Answers every chat completion with three words in three lines, streamed or not."""

    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["content-length"])))
        base = {"id": "1", "created": 1, "model": body["model"]}
        self.send_response(200)
        if body.get("stream"):
            chunks = [
                {**base, "object": "chat.completion.chunk", "choices": [{"index": 0, "delta": {"content": f"{word} "}}]}
                for word in WORDS
            ]
            sent = "".join(f"data: {json.dumps(chunk)}\n\n" for chunk in chunks) + "data: [DONE]\n\n"
            self.send_header("content-type", "text/event-stream")
        else:
            message = {"role": "assistant", "content": "\n".join(WORDS)}
            choices = [{"index": 0, "finish_reason": "stop", "message": message}]
            sent = json.dumps({**base, "object": "chat.completion", "choices": choices})
            self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(sent)))
        self.end_headers()
        self.wfile.write(sent.encode())

    def log_message(self, *_):
        pass


@contextmanager
def model():
    """The variables that lead to a fake model on this machine."""
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Model) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.05,))
        thread.start()
        try:
            yield {"OPENAI_BASE_URL": f"http://127.0.0.1:{server.server_port}/v1", "OPENAI_API_KEY": "none"}
        finally:
            server.shutdown()
            thread.join()


def free_port():
    with closing(socket.socket()) as probe:
        probe.bind(("127.0.0.1", 0))
        return str(probe.getsockname()[1])


@pytest.mark.skipif(missing() is not None, reason=str(missing()))
@pytest.mark.parametrize("template", TEMPLATES)
def test_every_printed_command_works(template, tmp_path):
    made = offramp("init", "desk", "--template", template, cwd=tmp_path)
    assert (made.returncode, made.stderr) == (0, "")
    first, *commands = re.findall(r"^  ([^# ].*)$", made.stdout, re.MULTILINE)
    assert first == "cd desk"
    port = free_port()
    with ExitStack() as stack:
        variables = stack.enter_context(model())
        for command in commands:
            if command.startswith("uvicorn"):
                prefix = ["/bin/sh", "-c", f"exec {command.replace('8000', port)}", "sh"]
                serve = running(cwd=tmp_path / "desk", env={"PATH": f"{BIN}:{os.environ['PATH']}"}, prefix=prefix)
                stack.enter_context(serve).wait_for("Application startup complete")
                continue
            if " serve " in command:
                serve = running(*arguments(command), cwd=tmp_path / "desk", env={**variables, "OFFRAMP_PORT": port})
                stack.enter_context(serve).wait_for(r"worker 1 +ready")
                continue
            done = typed(command.replace(":8000", f":{port}"), tmp_path / "desk", variables)
            assert done.returncode == 0, done.stdout + done.stderr
            if "ask?" in command:
                assert done.stdout == '"Why 2 notes say it: web on Why (1) to wiki on Why (1)."'
            elif command.startswith("curl"):
                assert "event: run.completed" in done.stdout, done.stdout


def test_the_app_has_the_name_of_its_folder_and_is_the_quickstart(tmp_path):
    assert offramp("init", str(tmp_path / "my desk!"), cwd=tmp_path).returncode == 0
    text = (tmp_path / "my desk!" / "app.py").read_text()
    assert text.replace('App("my-desk"', 'App("quickstart"') == (ROOT / "examples" / "quickstart.py").read_text()


def test_a_folder_with_an_environment_alone_is_new(tmp_path):
    for name in (".venv", ".git"):
        (tmp_path / name).mkdir()
    made = offramp("init", ".", cwd=tmp_path)
    assert made.returncode == 0
    assert "cd " not in made.stdout
    assert {".gitignore", "app.py", "test_app.py"} < {each.name for each in tmp_path.iterdir()}


@pytest.mark.parametrize(
    ("folder", "message"),
    [
        ("full", "full is not empty (a.txt, b.txt, c.txt, …): name a new folder"),
        ("full/a.txt", "full/a.txt is a file: name a new folder"),
        ("full/a.txt/desk", "cannot write to full/a.txt/desk: Not a directory"),
    ],
)
def test_what_is_there_is_left_alone(folder, message, tmp_path):
    (tmp_path / "full").mkdir()
    for name in ("a.txt", "b.txt", "c.txt", "d.txt"):
        (tmp_path / "full" / name).touch()
    done = offramp("init", folder, cwd=tmp_path)
    assert (done.returncode, done.stderr) == (2, f"offramp: {message}\n")
    assert len(list((tmp_path / "full").iterdir())) == 4


def test_packages_that_are_missing_are_named(monkeypatch, tmp_path, capsys):
    from offramp.cli import init

    monkeypatch.setattr(init, "find_spec", lambda _name: None)
    assert init.init(tmp_path / "a b", template="openai") == 0
    printed = capsys.readouterr().out
    assert "  pip install openai pytest\n" in printed
    assert f"  cd {shlex.quote(str(tmp_path / 'a b'))}\n" in printed
    assert "OPENAI_API_KEY" in printed
    assert Path(tmp_path / "a b" / "app.py").is_file()
