"""Another wire protocol, as small as one can be: what a surface has to provide, and nothing else.

`POST /chat` starts a run and streams `data: {"text": …}` lines to `data: [DONE]`, like OpenAI's completions; `GET
/chat/{run_id}` resumes it. Errors are `{"error": {"type": …, "message": …}}`.
"""

from __future__ import annotations

import msgspec
from msgspec.structs import replace

from offramp.gateway.bodies import body_error, read_json_body, require_json_value
from offramp.gateway.negotiation import position
from offramp.gateway.reply import Reply, json_reply
from offramp.gateway.starting import finishes_fast, submission, submit, submit_streamed
from offramp.gateway.streams import EventStream
from offramp.gateway.surface import Route, Surface


class Body(msgspec.Struct, forbid_unknown_fields=True):
    model: str
    prompt: str
    stream: bool = True


class ChatEncoder:
    """Deltas with a number counted per stream; other events are left out; any end but completion is an error."""

    opening = b""
    heartbeat = b": ping\n\n"

    def __init__(self):
        self._number = 0

    def encode(self, frames):
        parts, ended = [], False
        for frame in frames:
            event = msgspec.json.decode(frame.data)
            if frame.type == "step.delta":
                self._number += 1
                text = msgspec.json.encode({"number": self._number, "text": event["delta"]})
                parts.append(b"id: %d\ndata: %b\n\n" % (frame.seq, text))
            elif frame.terminal:
                ended = True
                if frame.type != "run.completed":
                    parts.append(b"data: %b\n\n" % msgspec.json.encode({"error": event["error"]["message"]}))
                parts.append(b"data: [DONE]\n\n")
        return b"".join(parts), len(parts), ended


def render(problem):
    error = {"type": problem.kind.code, "message": problem.detail, **problem.extensions}
    return Reply(problem.kind.status, msgspec.json.encode({"error": error}), problem.headers)


async def start(call):
    asked = submission(call, "")
    content = await read_json_body(call, call.service.settings.max_body_bytes)
    require_json_value(content)
    try:
        body = msgspec.json.decode(content, type=Body)
    except msgspec.ValidationError as error:
        raise body_error(error) from error
    name = call.pipeline(body.model).name
    asked = replace(asked, pipeline=name, input=msgspec.json.encode({"question": body.prompt}))
    if body.stream:
        after = position(call.connection.headers.get("last-event-id"), None)
        return await submit_streamed(call, asked, after, ChatEncoder())
    accepted = await submit(call, asked)
    finished = await finishes_fast(call, accepted)
    return json_reply(200 if finished else 202, {"id": accepted.record.id, "done": finished})


async def resume(call):
    after = position(call.connection.headers.get("last-event-id"), None)
    record = await call.followed()
    return EventStream(call, record.id, after, ChatEncoder(), slot=call.open_stream())


CHAT = Surface(
    (Route("POST", "/chat", start), Route("GET", "/chat/{run_id}", resume)),
    below=("/chat",),
    render=render,
)
