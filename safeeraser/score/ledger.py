"""The replies a paid judge has given so far, on disk, so that a run that is killed does not pay for them twice."""

import hashlib
import json
from pathlib import Path


class Ledger:
    """Replies by the digest of what was asked: judge, address and the whole prompt.

    A reply is reused only for the very same question, so another model, prompt or protocol starts afresh by itself.
    The file holds digests and replies, no response.
    """

    def __init__(self, path: Path):
        self._path = path
        self._replies: dict[str, str] = {}
        lines = path.read_text(encoding="utf-8", errors="replace").splitlines() if path.exists() else []
        for line in lines:
            try:
                digest, reply = json.loads(line)
                self._replies[digest] = reply
            except (ValueError, TypeError):
                continue  # blank, or the line that was being written when the run was killed

    @staticmethod
    def digest(*parts: str) -> str:
        """The name under which a reply is kept."""
        return hashlib.sha256(json.dumps(parts).encode()).hexdigest()

    def get(self, digest: str) -> str | None:
        """The reply kept under `digest`, or None."""
        return self._replies.get(digest)

    def add(self, digest: str, reply: str) -> None:
        """Keep a reply, at once on disk."""
        with open(self._path, "a", encoding="utf-8") as handle:
            # The newline comes first: a line broken off by a kill spoils only itself.
            handle.write("\n" + json.dumps([digest, reply]))

    def discard(self) -> None:
        """Remove the file: every reply has reached the outputs."""
        self._path.unlink(missing_ok=True)
