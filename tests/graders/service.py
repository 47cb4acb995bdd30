"""A model behind HTTP on this machine, that answers as it is told to, and misbehaves too."""

from __future__ import annotations

import base64
import contextlib
import dataclasses
import http.server
import io
import json
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
from PIL import Image

USAGE = {"prompt_tokens": 1000, "completion_tokens": 10}


@dataclasses.dataclass
class Reply:
    """What the service sends.

    Attributes:
        body: of the response; a mapping is sent as JSON.
        status: of HTTP.
        headers: beside the usual ones.
        delay: seconds before the first byte.
        lacks: bytes of the announced body that never come.
        drip: seconds between two bytes of the body; 0 sends all at once.
    """

    body: bytes | Mapping[str, Any]
    status: int = 200
    headers: Mapping[str, str] = dataclasses.field(default_factory=dict)
    delay: float = 0.0
    lacks: int = 0
    drip: float = 0.0


def choice(content: Any, **more: Any) -> Reply:
    """A response with one answer."""
    one = {"message": {"role": "assistant", "content": content}, "finish_reason": "stop", **more}
    return Reply({"choices": [one], "usage": USAGE})


@dataclasses.dataclass
class Asked:
    """A question as the service got it."""

    path: str
    headers: Mapping[str, str]
    body: dict[str, Any]

    @property
    def text(self) -> str:
        """What was asked."""
        return self.body["messages"][0]["content"][1]["text"]

    @property
    def image(self) -> np.ndarray:
        """The pixels that were sent."""
        url = self.body["messages"][0]["content"][0]["image_url"]["url"]
        data = base64.b64decode(url.removeprefix("data:image/png;base64,"), validate=True)
        return np.asarray(Image.open(io.BytesIO(data)))


@dataclasses.dataclass
class Service:
    """A running service."""

    url: str
    asked: list[Asked] = dataclasses.field(default_factory=list)


@contextlib.contextmanager
def served(answer: Callable[[int, Asked], Reply]) -> Iterator[Service]:
    """Runs a service; `answer` is given the number of the question, from 0, and the question."""
    lock = threading.Lock()

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            question = Asked(self.path, dict(self.headers), body)
            with lock:
                number = len(service.asked)
                service.asked.append(question)
            with contextlib.suppress(OSError):  # whoever asked may be gone
                self._send(answer(number, question))

        def _send(self, reply: Reply) -> None:
            time.sleep(reply.delay)
            body = reply.body if isinstance(reply.body, bytes) else json.dumps(reply.body).encode()
            self.send_response(reply.status)
            headers = {"Content-Length": str(len(body) + reply.lacks), **reply.headers}
            for name, value in headers.items():
                self.send_header(name, value)
            self.end_headers()
            pieces = [body[i : i + 1] for i in range(len(body))] if reply.drip else [body]
            for piece in pieces:
                self.wfile.write(piece)
                self.wfile.flush()
                time.sleep(reply.drip)

        def log_message(self, *args: Any) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    service = Service(f"http://127.0.0.1:{server.server_port}/v1")
    thread = threading.Thread(target=lambda: server.serve_forever(poll_interval=0.01))
    thread.start()
    try:
        yield service
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
