"""A real HTTP server on the loopback that plays the Hugging Face hub, as far as sending a model to it goes.

It keeps what it is sent, and misbehaves where its faults say so. The token that it takes is `TOKEN`; as careless
servers do, it repeats what it was given in every error.
"""

import base64
import hashlib
import json
import os
import re
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from unittest.mock import patch

import yaml
from huggingface_hub import constants

TOKEN = "hf_secretSECRETsecret0123456789"
NOBODY = "http://127.0.0.1:9"  # where nobody answers


@contextmanager
def at(url, token=TOKEN):
    """A user who is at the hub at `url`, in this process, where the library has read its environment long ago."""
    there = {"ENDPOINT": url, "HF_HUB_OFFLINE": False, "HF_HUB_DISABLE_XET": True, "HF_TOKEN_PATH": "/nowhere/token"}
    there["HUGGINGFACE_CO_URL_TEMPLATE"] = url + "/{repo_id}/resolve/{revision}/{filename}"
    with patch.multiple(constants, **there), patch.dict(os.environ, {"HF_TOKEN": token} if token else {}):
        yield


class Hub:
    """`faults`: (part of a path) -> statuses to answer with before all is well again.

    Attributes:
        repos: name -> {"private", "files": name -> bytes}.
        requests: (method, path, headers, body) of each request.
    """

    def __init__(self, role="write"):
        self.repos, self.requests, self.faults, self.large, self.role = {}, [], {}, {}, role
        hub = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def _any(self):
                body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
                hub.requests.append((self.command, self.path, dict(self.headers), body))
                status, value = hub.answer(self.command, self.path, self.headers, body)
                data = value if isinstance(value, bytes) else json.dumps(value).encode()
                self.send_response(status)
                self.send_header("Content-Length", str(len(data)))
                if status == 404 and value.get("error") == "no such repo":
                    self.send_header("X-Error-Code", "RepoNotFound")
                self.end_headers()
                self.wfile.write(data)

            do_GET = do_POST = do_PUT = do_HEAD = _any

            def log_message(self, *_):
                pass

        self._http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._http.server_port}"
        threading.Thread(target=self._http.serve_forever, args=(0.02,), daemon=True).start()

    def answer(self, method, path, headers, body):
        """The status and the body of an answer."""
        given = headers.get("Authorization", "")
        if path.startswith("/store/"):  # the storage knows no tokens: what was signed may come
            self.large[path.rpartition("/")[2]] = body
            return 200, {}
        for part, statuses in self.faults.items():
            if part in path and statuses:
                return statuses.pop(0), {"error": f"bad: {given}"}
        if given != f"Bearer {TOKEN}":
            return 401, {"error": f"bad: {given}"}
        if path == "/api/whoami-v2":
            return 200, {"name": "me", "type": "user", "auth": {"accessToken": {"role": self.role}}, "orgs": []}
        if path == "/api/validate-yaml":
            _, *rest = json.loads(body)["content"].split("---\n")  # somebody's own may have no metadata
            assert not rest or isinstance(yaml.safe_load(rest[0]), dict)
            return 200, {"errors": [], "warnings": []}
        if path == "/api/repos/create":
            told = json.loads(body)
            name = f"{told.get('organization') or 'me'}/{told['name']}"
            if name in self.repos:
                return 409, {"error": "there", "url": f"{self.url}/{name}"}
            self.repos[name] = {"private": told.get("visibility") == "private", "files": {}}
            return 200, {"url": f"{self.url}/{name}"}
        return self._of_repo(method, path, body)

    def _of_repo(self, method, path, body):
        found = re.fullmatch(r"(?:/api/models)?/([\w.-]+/[\w.-]+?)(?:\.git)?(?:/(.*))?", path.partition("?")[0])
        name, rest = found[1], found[2] or ""
        if name not in self.repos:
            return 404, {"error": "no such repo"}
        repo = self.repos[name]
        if not rest:
            return 200, {"id": name, "private": repo["private"], "sha": "0" * 40, "siblings": []}
        if rest.startswith("resolve/main/"):
            file = repo["files"].get(rest.removeprefix("resolve/main/"))
            return (200, file) if file is not None else (404, {"error": "no such file"})
        if rest.startswith("preupload/"):
            mode = {True: "lfs", False: "regular"}
            files = json.loads(body)["files"]
            told = [{"path": f["path"], "uploadMode": mode[f["path"].endswith("safetensors")]} for f in files]
            return 200, {"files": [one | {"shouldIgnore": False, "oid": None} for one in told]}
        if rest == "info/lfs/objects/batch":
            objects = [
                {"oid": o["oid"], "size": o["size"], "actions": {"upload": {"href": f"{self.url}/store/{o['oid']}"}}}
                for o in json.loads(body)["objects"]
            ]
            return 200, {"transfer": "basic", "objects": objects}
        if rest.startswith("commit/"):
            return self._commit(repo, [json.loads(line) for line in body.splitlines()])
        return 404, {"error": "unknown"}

    def _commit(self, repo, lines):
        for line in lines:
            value = line["value"]
            if line["key"] == "file":
                repo["files"][value["path"]] = base64.b64decode(value["content"])
            elif line["key"] == "lfsFile":
                data = self.large[value["oid"]]
                assert hashlib.sha256(data).hexdigest() == value["oid"]
                repo["files"][value["path"]] = data
        told = {"success": True, "commitOid": "1" * 40, "commitUrl": f"{self.url}/me/popd/commit/{'1' * 40}"}
        return 200, told

    def stop(self):
        self._http.shutdown()
        self._http.server_close()
