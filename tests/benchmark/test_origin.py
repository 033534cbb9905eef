"""Which code made a result."""

import subprocess

from safeeraser.benchmark import origin


def test_the_commit_of_a_checkout(tmp_path, monkeypatch):
    def git(*words):
        given = ["git", "-C", tmp_path, "-c", "user.name=n", "-c", "user.email=e@example.org", *words]
        return subprocess.run(given, check=True, capture_output=True, text=True).stdout.strip()

    git("init", "-q")
    git("commit", "-q", "--allow-empty", "-m", "one")
    monkeypatch.setattr(origin, "PACKAGE", tmp_path / "safeeraser")
    (tmp_path / "safeeraser").mkdir()
    assert origin.git_commit() == git("rev-parse", "HEAD")
    # What a changed file makes is not what the commit makes; a file of results beside it changes nothing.
    (tmp_path / "safeeraser" / "code.py").write_text("one")
    git("add", ".")
    git("commit", "-q", "-m", "two")
    git("tag", "-a", "v1", "-m", "v1")
    (tmp_path / "results.json").write_text("{}")
    assert origin.git_commit() == git("rev-parse", "HEAD")
    (tmp_path / "safeeraser" / "code.py").write_text("two")
    assert origin.git_commit() == git("rev-parse", "HEAD") + "-dirty"
    # What is installed within somebody's checkout is not of it.
    inside = tmp_path / "venv" / "site-packages" / "safeeraser"
    inside.mkdir(parents=True)
    monkeypatch.setattr(origin, "PACKAGE", inside)
    assert origin.git_commit() is None
    monkeypatch.setenv("PATH", str(tmp_path))
    assert origin.git_commit() is None, "there is no git"
