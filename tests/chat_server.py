"""A small OpenAI-compatible server on 127.0.0.1 whose answers a test writes."""

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

# The answer of a model to a request: (status, body as an object or text).
Script = Callable[[dict[str, Any]], tuple[int, Any]]


class ChatServer:
    """The server's address, and the requests that it has received."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.requests: list[dict[str, Any]] = []
        self.keys: list[str | None] = []
        self.most_at_once = 0
        self.now = 0


@contextmanager
def chat_server(script: Script) -> Iterator[ChatServer]:
    """Serve `POST /v1/chat/completions` by a script until the block ends."""
    lock = threading.Lock()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            with lock:
                seen.requests.append(body)
                seen.keys.append(self.headers.get("Authorization"))
                seen.now += 1
                seen.most_at_once = max(seen.most_at_once, seen.now)
            status, answer = script(body) if self.path == "/v1/chat/completions" else (404, "no such path")
            data = (answer if isinstance(answer, str) else json.dumps(answer)).encode()
            with lock:
                seen.now -= 1
            try:
                self.send_response(status)
                self.send_header("Content-Length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)
            except BrokenPipeError:  # the client's timeout has passed
                pass

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    seen = ChatServer(f"http://127.0.0.1:{server.server_address[1]}/v1")
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
    thread.start()
    try:
        yield seen
    finally:
        server.shutdown()
        server.server_close()


def says(text: str, finish: str = "stop") -> tuple[int, Any]:
    """Return a model's answer with this text."""
    return 200, {"choices": [{"message": {"role": "assistant", "content": text}, "finish_reason": finish}]}
