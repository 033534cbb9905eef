"""A real HTTP server on the loopback interface, with files and batches like OpenAI's."""

import email
import json
from urllib.parse import parse_qs, urlsplit

from chat_server import Loopback, Quiet, completion


class BatchServer(Loopback):
    """A server whose batches end when a client looks at them for the second time.

    `answer(prompt)` is a reply, the HTTP status of an error, or None: the batch ended without an answer.

    Attributes:
        end, errors: the status in which a batch ends, and its list of errors.
        refuse: the status and the error code that every request gets; None: no request is refused.
        lose: how many answers to the creation of a batch get lost, although the batch is created.
    """

    def __init__(self, answer):
        self.answer, self.end, self.errors, self.refuse = answer, "completed", None, None
        self.lose, self.uploads, self.batches, self.requests, self.seen = 0, {}, {}, [], {}
        server = self

        class Handler(Quiet):
            def do_GET(self):
                url = urlsplit(self.path)
                server.requests.append((self.command, url.path))
                if server.refuse:
                    error = {"message": f"bad: {self.headers['Authorization']}", "code": server.refuse[1]}
                    return self.tell({"error": error}, server.refuse[0])
                match self.command, *url.path.split("/")[2:]:
                    case "POST", "files":
                        return self.tell(server.upload(self.headers["Content-Type"], self.body()))
                    case "POST", "batches":
                        made, server.lose, lost = (
                            server.create(json.loads(self.body())),
                            server.lose - 1,
                            server.lose > 0,
                        )
                        self.close_connection = lost
                        return None if lost else self.tell(made)
                    case "GET", "batches":
                        return self.tell(server.list(parse_qs(url.query)))
                    case "GET", "batches", name if name in server.batches:
                        return self.tell(server.look(name))
                    case "GET", "files", name, "content" if name in server.uploads:
                        return self.tell(server.uploads[name])
                return self.tell({"error": {"message": "no", "code": None}}, 404)

            def tell(self, value, status=200):
                data = value if isinstance(value, bytes) else json.dumps(value).encode()
                kind = "application/octet-stream" if data is value else "application/json"
                self.reply(status, data, {"Content-Type": kind, "x-should-retry": str(status < 400).lower()})

            do_POST = do_GET

        self.start(Handler)

    def upload(self, kind, body):
        form = email.message_from_bytes(b"Content-Type: " + kind.encode() + b"\r\n\r\n" + body)
        parts = {part.get_param("name", header="content-disposition"): part for part in form.get_payload()}
        return self._keep(parts["file"].get_payload(decode=True))

    def _keep(self, data):
        name = f"file-{len(self.uploads)}"
        self.uploads[name] = data
        return {"id": name, "object": "file", "bytes": len(data), "created_at": 0, "filename": "f", "purpose": "batch"}

    def asked(self, name):
        """The requests of a batch."""
        return [json.loads(line) for line in self.uploads[self.batches[name]["input_file_id"]].splitlines()]

    def create(self, body):
        assert set(body) == {"input_file_id", "endpoint", "completion_window", "metadata"}
        name = f"batch_{len(self.batches)}"
        self.batches[name] = body | {"id": name, "object": "batch", "created_at": 0, "status": "validating"}
        return self.batches[name]

    def list(self, query):
        names = sorted(self.batches, reverse=True)
        start = names.index(query["after"][0]) + 1 if "after" in query else 0
        page = [self.batches[name] for name in names[start : start + 2]]
        return {"object": "list", "data": page, "has_more": start + 2 < len(names)}

    def look(self, name):
        self.seen[name] = self.seen.get(name, 0) + 1
        batch = self.batches[name]
        if batch["status"] in ("validating", "in_progress"):
            lines = self.asked(name)
            counts = {"total": len(lines), "completed": len(lines) // 2, "failed": 0}
            ended = self._end(lines) if self.seen[name] > 1 else {}
            batch |= {"status": "in_progress", "request_counts": counts} | ended
        return batch

    def _end(self, lines):
        files = {"output_file_id": b"", "error_file_id": b""}
        for line in () if self.errors else lines:
            assert (line["method"], line["url"]) == ("POST", "/v1/chat/completions")
            given = self.answer(line["body"]["messages"][0]["content"])
            key = "output_file_id" if isinstance(given, str) else "error_file_id"
            files[key] += self.line(line["custom_id"], given)
        files = {key: self._keep(data)["id"] for key, data in files.items() if data}
        return files | {"status": self.end, "errors": self.errors and {"object": "list", "data": self.errors}}

    def line(self, key, given):
        """The line about a request in a file of answers."""
        status, body = given, {"error": {"message": "server words"}}
        if isinstance(given, str):
            status, body = 200, json.loads(completion(given))
        response = given and {"status_code": status, "request_id": "r", "body": body}
        error = None if given else {"code": "batch_expired", "message": "server words"}
        return json.dumps({"id": "l", "custom_id": key, "response": response, "error": error}).encode() + b"\n"
