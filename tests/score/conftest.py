"""What holds for every test of scoring."""

import pytest


@pytest.fixture(autouse=True)
def quick(tmp_path, monkeypatch):
    """A client that reads no certificates, since no server here has one, and finds no key of this machine."""
    for name in ("OPENAI_API_KEY", "OPENAI_BASE_URL", "SSL_CERT_FILE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("SSL_CERT_DIR", str(tmp_path))
