"""Everything undocumented that gateway/wire/ relies on in uvicorn, httptools and websockets.

After an upgrade, this file fails first and says what has changed. Nothing else imports these internals.
"""

from __future__ import annotations

import ast
import importlib
import inspect
from importlib.metadata import version
from pathlib import Path

import pytest

SOURCE = Path(__file__).parents[2] / "src/offramp"
WIRE = SOURCE / "gateway/wire"
LIBRARIES = {"httptools", "uvicorn", "websockets"}

HTTP = "uvicorn.protocols.http.httptools_impl:HttpToolsProtocol"
CYCLE = "uvicorn.protocols.http.httptools_impl:RequestResponseCycle"
SOCKET = "uvicorn.protocols.websockets.websockets_sansio_impl:WebSocketsSansIOProtocol"
SERVER = "uvicorn:Server"
HANDSHAKE = "websockets.server:ServerProtocol"

IMPORTED = {
    "httptools": {"HttpParserError", "HttpParserUpgrade", "HttpRequestParser"},
    "uvicorn": {"Config", "Server"},
    "uvicorn.protocols.http.httptools_impl": {"HttpToolsProtocol", "RequestResponseCycle"},
    "uvicorn.protocols.utils": {"ClientDisconnected"},
    "uvicorn.protocols.websockets.websockets_sansio_impl": {"WebSocketsSansIOProtocol"},
    "websockets.http11": {"Response"},
    "websockets.server": {"ServerProtocol"},
}
OVERRIDDEN = {
    HTTP: {
        "__init__": "self config server_state app_state _loop",
        "connection_made": "self transport",
        "connection_lost": "self exc",
        "data_received": "self data",
        "on_header": "self name value",
        "on_headers_complete": "self",
        "on_body": "self body",
        "on_message_complete": "self",
    },
    SOCKET: {
        "__init__": "self config server_state app_state _loop",
        "data_received": "self data",
        "send": "self message",
        "send_receive_event_to_app": "self",
    },
    SERVER: {
        "__init__": "self config",
        "capture_signals": "self",
        "startup": "self sockets",
    },
    HANDSHAKE: {"reject": "self status text"},
}
CALLED = {
    HTTP: {
        "_should_upgrade": "self",
        "_unset_keepalive_if_required": "self",
        "handle_websocket_upgrade": "self",
    },
    CYCLE: {"send": "self message"},
    SOCKET: {"handle_parser_exception": "self"},
    SERVER: {"serve": "self sockets"},
    HANDSHAKE: {"data_to_send": "self", "send_close": "self code reason"},
}
# Set on every object when it is made.
HELD = {
    HTTP: {"cycle", "flow", "headers", "logger", "loop", "parser", "pipeline", "server_state", "transport"},
    SOCKET: {
        "close_sent",
        "config",
        "conn",
        "curr_msg_data_type",
        "default_headers",
        "disconnected",
        "frames",
        "handshake_complete",
        "handshake_initiated",
        "initial_response",
        "logger",
        "queue",
        "transport",
    },
    SERVER: {"config", "force_exit", "server_state", "should_exit", "started"},
}
# Set later by the method that is named.
HELD_AFTER = {
    HTTP: {"url": "on_message_begin"},
    SERVER: {"lifespan": "_serve", "servers": "startup"},
    CYCLE: {
        "chunked_encoding": "send",
        "expected_content_length": "send",
        "keep_alive": "__init__",
        "response_complete": "__init__",
        "response_started": "__init__",
    },
}


def of(place):
    module, _, name = place.partition(":")
    found = getattr(importlib.import_module(module), name, None)
    assert found is not None, f"{describe(place)} is gone"
    return found


def describe(place):
    library = place.partition(":")[0].partition(".")[0]
    return f"{library} {version(library)}: {place.partition(':')[2] or place}"


def each(table):
    return [pytest.param(place, name, table[place][name], id=f"{name}") for place in table for name in table[place]]


@pytest.mark.parametrize("module", IMPORTED)
def test_what_is_imported_exists(module):
    missing = {name for name in IMPORTED[module] if not hasattr(importlib.import_module(module), name)}
    assert not missing, f"{describe(module)} has no {missing}; see the imports in gateway/wire/"


@pytest.mark.parametrize(("place", "name", "parameters"), [*each(OVERRIDDEN), *each(CALLED)])
def test_a_method_takes_what_it_took(place, name, parameters):
    method = getattr(of(place), name, None)
    assert method is not None, f"{describe(place)} has no method {name}; gateway/wire/ overrides or calls it"
    actual = " ".join(inspect.signature(method).parameters)
    assert actual == parameters, f"{describe(place)}.{name} takes {actual!r}, gateway/wire/ expects {parameters!r}"


async def test_an_object_holds_what_is_read_and_set():
    uvicorn = importlib.import_module("uvicorn")
    config = uvicorn.Config(lambda: None, http=of(HTTP), ws=of(SOCKET), log_config=None, lifespan="off")
    config.load()
    server = of(SERVER)(config)
    state = {"config": config, "server_state": server.server_state, "app_state": {}}
    for place, made in ((HTTP, of(HTTP)(**state)), (SOCKET, of(SOCKET)(**state)), (SERVER, server)):
        missing = {name for name in HELD[place] if not hasattr(made, name)}
        assert not missing, f"{describe(place)} no longer has {missing}; gateway/wire/ reads or sets it"
        if place == SOCKET:
            assert isinstance(made.conn, of(HANDSHAKE)), f"{describe(place)}.conn is another class"
            # The replacement for `conn` takes over the extensions that uvicorn chose.
            [deflate] = made.conn.available_extensions
            assert type(deflate).__name__ == "ServerPerMessageDeflateFactory"
    assert {"connections", "default_headers"} <= vars(server.server_state).keys(), f"{describe(SERVER)}.server_state"
    assert {"timeout_graceful_shutdown", "ws_max_size"} <= vars(config).keys(), f"{describe('uvicorn:Config')}"


@pytest.mark.parametrize(("place", "name", "setter"), each(HELD_AFTER))
def test_a_method_sets_what_is_read_after_it(place, name, setter):
    source = inspect.getsource(getattr(of(place), setter))
    assert f"self.{name}" in source, f"{describe(place)}.{setter} no longer sets {name}; gateway/wire/ reads it"


def test_a_refused_handshake_goes_through_reject():
    """`_Handshake` answers with problem documents by overriding it."""
    handshake = of(HANDSHAKE)
    assert "self.reject(" in inspect.getsource(handshake.accept), f"{describe(HANDSHAKE)}.accept"
    protocol = handshake()
    response = protocol.reject(426, "text")
    assert (response.status_code, response.body) == (426, b"text")
    assert {"Content-Type", "Content-Length"} <= set(dict(response.headers.raw_items()))


def test_the_flow_of_a_connection_says_whether_reading_is_paused():
    module = importlib.import_module("uvicorn.protocols.http.flow_control")
    assert module.FlowControl(None).read_paused is False


def classes():
    """Our subclasses by the name of their base class."""
    for file in WIRE.glob("*.py"):
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.ClassDef) and node.bases:
                yield ast.unparse(node.bases[0]).rpartition(".")[2], node


def uses(node):
    """What a subclass takes from `self` or `super()`, less what it defines under a private name itself."""
    own = {each.name for each in node.body if isinstance(each, ast.FunctionDef | ast.AsyncFunctionDef)}
    taken, assigned = set(), set()
    for each in ast.walk(node):
        if isinstance(each, ast.Attribute) and ast.unparse(each.value) in {"self", "super()"}:
            taken.add(each.attr)
            if isinstance(each.ctx, ast.Store) and each.attr.startswith("_"):
                assigned.add(each.attr)
    return own, taken - own - assigned


def test_these_tables_name_all_that_is_used():
    seen = dict(classes())
    for place in (HTTP, SOCKET, SERVER):
        own, taken = uses(seen[place.partition(":")[2]])
        named = OVERRIDDEN[place].keys() | CALLED[place].keys() | HELD[place] | HELD_AFTER.get(place, {}).keys()
        assert taken <= named, f"not named here: {taken - named}"
        inherited = {name for name in own if hasattr(of(place), name)}
        assert inherited == OVERRIDDEN[place].keys()


def test_no_other_code_imports_these_libraries():
    for file in SOURCE.rglob("*.py"):
        if file.parent == WIRE:
            continue
        for node in ast.walk(ast.parse(file.read_text())):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            assert not LIBRARIES & {name.partition(".")[0] for name in names}, file


def test_every_import_is_named_here():
    found: dict[str, set[str]] = {}
    for file in WIRE.glob("*.py"):
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.ImportFrom) and (node.module or "").partition(".")[0] in LIBRARIES:
                found.setdefault(node.module, set()).update(alias.name for alias in node.names)
            elif isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id in LIBRARIES:
                found.setdefault(node.value.id, set()).add(node.attr)
    assert found == IMPORTED
