"""What holds for every test of scoring."""

import pytest


@pytest.fixture(autouse=True)
def quick(tmp_path, monkeypatch):
    """A client that reads no certificates, since no server here has one."""
    monkeypatch.delenv("SSL_CERT_FILE", raising=False)
    monkeypatch.setenv("SSL_CERT_DIR", str(tmp_path))
