"""What the tests of endpoints and judges share: a server that answers requests by a function of their body."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

JSON = Any


@contextmanager
def answering(answer: Callable[[JSON], str]) -> Iterator[str]:
    """The base URL of an endpoint that says what `answer` makes of a body; 400 with the message of a ValueError."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            try:
                message = {"role": "assistant", "content": answer(body)}
                status, said = 200, {"choices": [{"index": 0, "message": message, "finish_reason": "stop"}]}
            except ValueError as error:
                status, said = 400, {"error": {"message": str(error)}}
            data = json.dumps(said).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, *args: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/v1"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
