"""A real HTTP server on the loopback with files and batches, as OpenAI's."""

import email
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, urlsplit


class BatchServer:
    """Its batches end once they were looked at enough.

    `answer(prompt)` is a reply, a status that is none, or None: no answer before the batch ended.

    Attributes:
        looks: how often a batch is seen at work before it has ended.
        end: the status in which it ends.
        errors: what is said to be wrong with a batch that ends.
        hold: the step ("upload", "create", "created", "look") at which the server stands still until `go`; `held` tells
            that it does.
        refuse, code: the status that every request gets, and the error's code.
        lose: how many answers to the making of a batch get lost; the batch is made.
        page: how many batches a list shows at most.
    """

    def __init__(self, answer):
        self.answer, self.looks, self.end, self.errors, self.hold, self.refuse = (
            answer,
            1,
            "completed",
            None,
            None,
            None,
        )
        self.lose, self.page, self.code = 0, 100, None
        self.uploads, self.batches, self.requests, self.seen = {}, {}, [], {}
        self.held, self.go = threading.Event(), threading.Event()
        server = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            wbufsize = -1

            def do_POST(self):
                self.body = self.rfile.read(int(self.headers["Content-Length"]))
                self.do_GET()

            def do_GET(self):
                url = urlsplit(self.path)
                server.requests.append((self.command, url.path))
                if server.refuse:
                    error = {"message": f"bad: {self.headers['Authorization']}", "code": server.code}
                    return self.tell({"error": error}, server.refuse)
                match self.command, *url.path.split("/")[2:]:
                    case "POST", "files":
                        self.tell(server.upload(self.headers["Content-Type"], self.body))
                    case "POST", "batches":
                        made = server.create(json.loads(self.body))
                        if server.lose:
                            server.lose -= 1
                            self.close_connection = True
                            return None
                        self.tell(made)
                    case "GET", "batches":
                        self.tell(server.list(parse_qs(url.query)))
                    case "GET", "batches", name if name in server.batches:
                        self.tell(server.look(name))
                    case "GET", "files", name, "content" if name in server.uploads:
                        self.send(server.uploads[name], 200, "application/octet-stream")
                    case _:
                        self.tell({"error": {"message": "no", "code": None}}, 404)
                return None

            def tell(self, value, status=200):
                self.send(json.dumps(value).encode(), status, "application/json")

            def send(self, data, status, kind):
                self.send_response(status)
                self.send_header("Content-Type", kind)
                self.send_header("Content-Length", str(len(data)))
                self.send_header("x-should-retry", "false" if status >= 400 else "true")
                self.end_headers()
                self.wfile.write(data)

            def log_message(self, *_):
                pass

        class Http(ThreadingHTTPServer):
            daemon_threads = True

            def handle_error(self, *_):
                pass  # the client hung up, as it may

        self._http = Http(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._http.server_port}/v1"
        threading.Thread(target=self._http.serve_forever, args=(0.02,), daemon=True).start()

    def _at(self, step):
        if step == self.hold:
            self.held.set()
            self.go.wait(30)
            if step == "create":
                raise ConnectionError  # it never came

    def upload(self, kind, body):
        self._at("upload")
        form = email.message_from_bytes(b"Content-Type: " + kind.encode() + b"\r\n\r\n" + body)
        parts = {part.get_param("name", header="content-disposition"): part for part in form.get_payload()}
        assert parts["purpose"].get_payload() == "batch"
        return self._keep(parts["file"].get_payload(decode=True))

    def _keep(self, data):
        name = f"file-{len(self.uploads)}"
        self.uploads[name] = data
        return {"id": name, "object": "file", "bytes": len(data), "created_at": 0, "filename": "f", "purpose": "batch"}

    def asked(self, name):
        """The lines of a batch."""
        return [json.loads(line) for line in self.uploads[self.batches[name]["input_file_id"]].splitlines()]

    def create(self, body):
        self._at("create")
        assert set(body) == {"input_file_id", "endpoint", "completion_window", "metadata"}
        name = f"batch_{len(self.batches)}"
        self.batches[name] = body | {"id": name, "object": "batch", "created_at": 0, "status": "validating"}
        self._at("created")
        return self.batches[name]

    def list(self, query):
        names = sorted(self.batches, reverse=True)
        start = names.index(query["after"][0]) + 1 if "after" in query else 0
        page = names[start : start + self.page]
        more = start + self.page < len(names)
        return {"object": "list", "data": [self.batches[name] for name in page], "has_more": more}

    def look(self, name):
        self.seen[name] = self.seen.get(name, 0) + 1
        self._at("look")
        batch = self.batches[name]
        if batch["status"] in ("validating", "in_progress"):
            lines = self.asked(name)
            counts = {"total": len(lines), "completed": len(lines) // 2, "failed": 0}
            batch |= {"status": "in_progress", "request_counts": counts}
            if self.seen[name] > self.looks:
                batch |= self._end(lines)
        return batch

    def _end(self, lines):
        good, bad = [], []
        if not self.errors:
            for line in lines:
                assert (line["method"], line["url"]) == ("POST", "/v1/chat/completions")
                given = self.answer(line["body"]["messages"][0]["content"])
                (good if isinstance(given, str) else bad).append(self._line(line["custom_id"], given))
        files = {"output_file_id": good, "error_file_id": bad}
        files = {key: self._keep(b"".join(its))["id"] for key, its in files.items() if its}
        return files | {"status": self.end, "errors": self.errors and {"object": "list", "data": self.errors}}

    def _line(self, key, given):
        message = {"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": given}}
        body = {"id": "c", "object": "chat.completion", "created": 0, "model": "m", "choices": [message]}
        body |= {"usage": {"prompt_tokens": 7, "completion_tokens": 3, "total_tokens": 10}}
        error = None
        if given is None:
            response, error = None, {"code": "batch_expired", "message": "server words"}
        elif isinstance(given, int):
            response = {"status_code": given, "request_id": "r", "body": {"error": {"message": "server words"}}}
        else:
            response = {"status_code": 200, "request_id": "r", "body": body}
        return json.dumps({"id": "l", "custom_id": key, "response": response, "error": error}).encode() + b"\n"

    def stop(self):
        self.go.set()
        self._http.shutdown()
        self._http.server_close()
