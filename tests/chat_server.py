"""A real HTTP server on this machine that speaks chat completions, and misbehaves where its script says so."""

import json
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

CLOSE, HANG = object(), object()  # instead of a reply: close the connection, or stay silent
NO_COMPLETION = b'{"a": 1}'  # a JSON object, but no chat completion


def completion(text, finish="stop", *, model="m", fingerprint=None, refusal=None):
    """The body of a chat completion, with the optional fields that a server may fill in."""
    message = {"role": "assistant", "content": text, "refusal": refusal}
    value = {"id": "c", "object": "chat.completion", "created": 0, "model": model, "system_fingerprint": fingerprint}
    value["usage"] = {"prompt_tokens": 7, "completion_tokens": 3, "total_tokens": 10}
    return json.dumps(value | {"choices": [{"index": 0, "finish_reason": finish, "message": message}]}).encode()


class Http(ThreadingHTTPServer):
    request_queue_size = 128  # so that many connections at once need not wait for a retry by the kernel
    daemon_threads = True

    def handle_error(self, *_):
        pass  # a client may hang up


class Quiet(BaseHTTPRequestHandler):
    """A request handler that prints nothing into the test's own output."""

    protocol_version = "HTTP/1.1"
    wbufsize = -1  # head and body in one packet: of two, the second would wait until the first is acknowledged

    def body(self):
        return self.rfile.read(int(self.headers["Content-Length"] or 0))

    def reply(self, status, data, headers):
        self.send_response(status)
        for name, text in {"Content-Length": len(data), **headers}.items():
            self.send_header(name, str(text))
        self.end_headers()
        self.wfile.write(data)
        self.wfile.flush()

    def log_message(self, *_):
        pass


class Loopback:
    """A server that runs in a thread from `start` to `stop`, at `url`."""

    def start(self, handler, root="/v1"):
        self._http = Http(("127.0.0.1", 0), handler)
        self.url = f"http://127.0.0.1:{self._http.server_port}{root}"
        threading.Thread(target=self._http.serve_forever, args=(0.02,), daemon=True).start()

    def stop(self):
        self._http.shutdown()
        self._http.server_close()


class Server(Loopback):
    """A chat server. `script(number, prompt)` returns (status, headers, reply) for the request with that number.

    A reply is `CLOSE`, `HANG`, the bytes of a body, or the text of a completion (None: a completion without content).
    With the status of an error, the text is the error's code.
    """

    def __init__(self, script):
        self.requests, self.answered, self.in_flight, self.peak = [], [], 0, 0
        self._lock, self.stopped = threading.Lock(), threading.Event()
        server = self

        class Handler(Quiet):
            def do_POST(self):
                body = json.loads(self.body())
                prompt = body["messages"][0]["content"]
                with server._lock:
                    number = len(server.requests)
                    server.requests.append((time.monotonic(), self.headers["Authorization"], self.path, body))
                    server.in_flight += 1
                    server.peak = max(server.peak, server.in_flight)
                answer = script(number, prompt)
                with server._lock:
                    server.in_flight -= 1
                self._answer(prompt, *answer)

            def _answer(self, prompt, status, headers, reply):
                if reply is HANG:
                    server.stopped.wait(30)
                if reply in (CLOSE, HANG):
                    self.close_connection = True
                    return
                data = reply if isinstance(reply, bytes) else self._body(status, reply)
                self.reply(status, data, {"Content-Type": "application/json", **headers})
                if status == 200:
                    server.answered.append(prompt)

            def _body(self, status, reply):
                # An error repeats the key of the request, as OpenAI's errors do.
                error = {"error": {"message": f"bad: {self.headers['Authorization']}", "type": "t", "code": reply}}
                return completion(reply) if status == 200 else json.dumps(error).encode()

        self.start(Handler)

    def stop(self):
        self.stopped.set()
        super().stop()
