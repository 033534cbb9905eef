"""A real HTTP server on this machine that plays the part of the Hugging Face hub to which a model is sent.

It keeps the files that it receives, and misbehaves where its `faults` say so. It accepts one token, `TOKEN`.
Like a careless server, it repeats the token of a request in the errors for faults and wrong tokens.
"""

import base64
import hashlib
import json
import os
import re
from contextlib import contextmanager
from unittest.mock import patch

from chat_server import Loopback, Quiet
from huggingface_hub import constants

TOKEN = "hf_secretSECRETsecret0123456789"
NOBODY = "http://127.0.0.1:9"  # no server answers here


@contextmanager
def at(url, token=TOKEN):
    """Let this process use the hub at `url`. Constants are patched: the library has read its environment already."""
    there = {"ENDPOINT": url, "HF_HUB_OFFLINE": False, "HF_HUB_DISABLE_XET": True, "HF_TOKEN_PATH": "/nowhere/token"}
    there["HUGGINGFACE_CO_URL_TEMPLATE"] = url + "/{repo_id}/resolve/{revision}/{filename}"
    with patch.multiple(constants, **there), patch.dict(os.environ, {"HF_TOKEN": token} if token else {}):
        yield


class Hub(Loopback):
    """The hub. `faults`: part of a path -> statuses of the next requests for such a path, before it works again.

    `repos`: name -> {"private", "files": name -> bytes}; `requests`: (method, path, headers, body) of each request.
    """

    def __init__(self):
        self.repos, self.requests, self.faults, self.large = {}, [], {}, {}
        hub = self

        class Handler(Quiet):
            def _any(self):
                body = self.body()
                hub.requests.append((self.command, self.path, dict(self.headers), body))
                status, value = hub.answer(self.command, self.path, self.headers, body)
                data = value if isinstance(value, bytes) else json.dumps(value).encode()
                lacks = status == 404 and value.get("error") == "no such repo"
                self.reply(status, data, {"X-Error-Code": "RepoNotFound"} if lacks else {})

            do_GET = do_POST = do_PUT = do_HEAD = _any

        self.start(Handler, root="")

    def answer(self, method, path, headers, body):
        """The status and the body of the answer to a request."""
        given = headers.get("Authorization", "")
        if path.startswith("/store/"):  # the storage checks no token: its URLs count as signed
            self.large[hashlib.sha256(body).hexdigest()] = body
            return 200, {}
        for part, statuses in self.faults.items():
            if part in path and statuses:
                return statuses.pop(0), {"error": f"bad: {given}"}
        if given != f"Bearer {TOKEN}":
            return 401, {"error": f"bad: {given}"}
        if path == "/api/validate-yaml":
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
        if rest.startswith("preupload/"):
            files = [{"path": one["path"], "shouldIgnore": False, "oid": None} for one in json.loads(body)["files"]]
            for one in files:
                one["uploadMode"] = "lfs" if one["path"].endswith("safetensors") else "regular"
            return 200, {"files": files}
        if rest == "info/lfs/objects/batch":
            objects = json.loads(body)["objects"]
            for one in objects:
                one["actions"] = {"upload": {"href": f"{self.url}/store/{one['oid']}"}}
            return 200, {"transfer": "basic", "objects": objects}
        if rest.startswith("commit/"):
            for line in map(json.loads, body.splitlines()):
                value = line["value"]
                if line["key"] == "file":
                    repo["files"][value["path"]] = base64.b64decode(value["content"])
                elif line["key"] == "lfsFile":
                    repo["files"][value["path"]] = self.large[value["oid"]]
            commit = f"{self.url}/me/popd/commit/{'1' * 40}"
            return 200, {"success": True, "commitOid": "1" * 40, "commitUrl": commit}
        return 404, {"error": "unknown"}
