"""A backend for traces: takes OTLP over HTTP on loopback and keeps every span, readable as plain values."""

from __future__ import annotations

import contextlib
import gzip
import socket
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

WAIT_S = 30.0
KINDS = ("UNSPECIFIED", "INTERNAL", "SERVER", "CLIENT", "PRODUCER", "CONSUMER")
STATUSES = ("UNSET", "OK", "ERROR")


class Span:
    """One span as it arrived; ids are hexadecimal, times in nanoseconds."""

    def __init__(self, span, scope, resource):
        self.name = span.name
        self.trace_id, self.id, self.parent = span.trace_id.hex(), span.span_id.hex(), span.parent_span_id.hex()
        self.state = span.trace_state
        self.kind = KINDS[span.kind]
        self.attributes = values(span.attributes)
        self.events = [(event.name, values(event.attributes)) for event in span.events]
        self.links = [(link.trace_id.hex(), link.span_id.hex(), values(link.attributes)) for link in span.links]
        self.status = STATUSES[span.status.code]
        self.began, self.ended = span.start_time_unix_nano, span.end_time_unix_nano
        self.scope = scope
        self.resource = resource

    def __repr__(self):
        return f"<{self.name} {self.kind} {self.id} below {self.parent or 'nothing'} in {self.trace_id[-6:]}>"


def values(attributes):
    return {each.key: value(each.value) for each in attributes}


def value(any_value):
    kind = any_value.WhichOneof("value")
    look = None if kind is None else getattr(any_value, kind)
    return [value(each) for each in look.values] if kind == "array_value" else look


class Receiver:
    """`spans` is what came so far, `metrics` the names of the metrics."""

    def __init__(self):
        self.spans = []
        self.metrics = set()
        self.resources = []
        self.headers = []
        self._changed = threading.Condition()
        receiver = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self):
                body = self.rfile.read(int(self.headers["content-length"]))
                if self.headers.get("content-encoding") == "gzip":
                    body = gzip.decompress(body)
                receiver.take(self.path, body, dict(self.headers))
                with contextlib.suppress(OSError):
                    self.send_response(200)
                    self.send_header("content-length", "0")
                    self.end_headers()

            def log_message(self, *_):
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self._server.handle_error = lambda *_: None
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True)
        self._thread.start()
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"

    def take(self, path, body, headers):
        with self._changed:
            self.headers.append(headers)
            if path == "/v1/metrics":
                for part in ExportMetricsServiceRequest.FromString(body).resource_metrics:
                    self.resources.append(values(part.resource.attributes))
                    self.metrics |= {metric.name for scope in part.scope_metrics for metric in scope.metrics}
            else:
                for part in ExportTraceServiceRequest.FromString(body).resource_spans:
                    resource = values(part.resource.attributes)
                    for scope in part.scope_spans:
                        self.spans += [Span(span, scope.scope.name, resource) for span in scope.spans]
            self._changed.notify_all()

    def wait_for(self, look):
        """What `found` gives for the spans, once that is true."""
        ends_at = time.monotonic() + WAIT_S
        with self._changed:
            while not (result := look(self.spans)):
                left = ends_at - time.monotonic()
                assert left > 0, f"it did not come; there are {self.spans}"
                self._changed.wait(left)
            return result

    def named(self, name, count=1):
        """The spans of this name, once there are as many."""
        return self.wait_for(
            lambda spans: look if len(look := [span for span in spans if span.name == name]) >= count else None
        )

    def one(self, name):
        (look,) = self.named(name)
        return look

    def close(self):
        self._server.shutdown()
        self._thread.join(WAIT_S)
        self._server.server_close()


@contextlib.contextmanager
def receiving():
    made = Receiver()
    try:
        yield made
    finally:
        made.close()


@contextlib.contextmanager
def silent():
    """A backend that accepts connections and never answers; its address."""
    with contextlib.closing(socket.create_server(("127.0.0.1", 0), backlog=64)) as bound:
        yield f"http://127.0.0.1:{bound.getsockname()[1]}"


@contextlib.contextmanager
def refusing():
    """An address where nothing listens, for as long as this is open."""
    with contextlib.closing(socket.socket()) as bound:
        bound.bind(("127.0.0.1", 0))  # taken, but not listened on
        yield f"http://127.0.0.1:{bound.getsockname()[1]}"
