"""For every test of judges: shorter pauses, and neither this machine's certificates nor its cache."""

import pytest


@pytest.fixture(autouse=True)
def quick(tmp_path, monkeypatch):
    """Shorten the pauses before retries and looks; clients read no certificates, because no server here has one."""
    monkeypatch.setattr("openai._base_client.INITIAL_RETRY_DELAY", 0.002)
    monkeypatch.setattr("openai._base_client.MAX_RETRY_DELAY", 0.05)
    monkeypatch.setattr("safeeraser.judge.served.TIMEOUT", 2.0)
    monkeypatch.setattr("safeeraser.judge.batch.POLL", 0.01)
    monkeypatch.setattr("safeeraser.judge.batch.PAUSE", 0.01)
    monkeypatch.delenv("SSL_CERT_FILE", raising=False)
    monkeypatch.setenv("SSL_CERT_DIR", str(tmp_path))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
