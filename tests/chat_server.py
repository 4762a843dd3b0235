"""A server that speaks as OpenAI's does, on a real port, and says what a test wants it to say."""

import json
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


def completion(text: str) -> dict[str, Any]:
    """A chat completion of nine tokens that was cut."""
    return {"choices": [{"message": {"content": text}, "finish_reason": "length"}], "usage": {"completion_tokens": 9}}


@dataclass
class Server:
    """Gives its answers in their order, the last one for ever."""

    url: str = ""
    models: list[str] = field(default_factory=lambda: ["tiny"])
    answers: list[tuple[int, Any]] = field(default_factory=lambda: [(200, completion("4"))])
    asked: list[dict[str, Any]] = field(default_factory=list)
    keys: list[str | None] = field(default_factory=list)

    def next(self) -> tuple[int, Any]:
        return self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]


@contextmanager
def chat_server() -> Iterator[Server]:
    state = Server()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self._say(200, {"data": [{"id": name} for name in state.models]})

        def do_POST(self) -> None:
            state.asked.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            state.keys.append(self.headers.get("Authorization"))
            self._say(*state.next())

        def _say(self, status: int, value: Any) -> None:
            body = value.encode() if isinstance(value, str) else json.dumps(value).encode()
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None:
            """Says nothing."""

    http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    state.url = f"http://127.0.0.1:{http.server_address[1]}"
    thread = threading.Thread(target=http.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield state
    finally:
        http.shutdown()
        thread.join()
        http.server_close()


@contextmanager
def answering(texts: Sequence[str]) -> Iterator[str]:
    """The URL of a server that answers with these texts in turn."""
    with chat_server() as server:
        server.answers = [(200, completion(text)) for text in texts]
        yield server.url
