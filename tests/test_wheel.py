"""An installed wheel is complete: no command needs the checkout that the wheel was built from."""

import importlib.metadata
import json
import os
import re
import shutil
import subprocess
import sys
import venv
from pathlib import Path

import pytest
from scoring import ROOT, predicted, record, write_files

from safeeraser.errors import TRAINING

pytestmark = pytest.mark.slow

SOURCES = ("safeeraser", "config", "eval_all.py", "pyproject.toml", "setup.py", "README.md", "LICENSE")
# Packages of extras, this project itself, and the package that pydantic requires in one exact version.
EXTRAS = ("deepspeed", "bitsandbytes", "setuptools", "safeeraser", "pydantic-core", "lmms-eval")
SDIST = "from setuptools.build_meta import build_sdist; print(build_sdist('.'))"


class Installed:
    """A fresh environment with the wheel, built from a source archive, and this one's packages except `train`."""

    def __init__(self, folder: Path) -> None:
        folder = folder.resolve()
        self.elsewhere = folder / "elsewhere"
        self.elsewhere.mkdir()
        wheel = self._build(folder / "checkout")
        venv.create(folder / "fresh", symlinks=True)
        (self.packages,) = (folder / "fresh").glob("lib/python*/site-packages")
        pip = (sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-index", "--no-compile", "--target")
        subprocess.run([*pip, self.packages, wheel], check=True)
        for path in (path for folder in sys.path if folder.endswith("-packages") for path in Path(folder).iterdir()):
            # A .pth file may point to an editable install, which must not be taken along.
            if path.stem not in TRAINING and path.suffix != ".pth" and not (self.packages / path.name).exists():
                (self.packages / path.name).symlink_to(path)
        self.python = folder / "fresh" / "bin" / "python"

    def _build(self, checkout: Path) -> Path:
        for name in SOURCES:
            if (ROOT / name).is_dir():
                shutil.copytree(ROOT / name, checkout / name, ignore=shutil.ignore_patterns("__pycache__"))
            else:
                shutil.copy(ROOT / name, checkout / name)
        built = subprocess.run([sys.executable, "-c", SDIST], cwd=checkout, check=True, capture_output=True, text=True)
        archive = checkout / built.stdout.splitlines()[-1]
        pip = (sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation", "--no-index", "-w")
        subprocess.run([*pip, self.elsewhere, archive], cwd=self.elsewhere, check=True)
        shutil.rmtree(checkout)
        return next(self.elsewhere.glob("safeeraser-*.whl"))

    def run(self, *words: object, code: int = 0) -> str:
        """Run the fresh Python in another folder; return its output, or its errors if it is to fail."""
        environment = {name: value for name, value in os.environ.items() if not re.match("PYTHON|OPENAI_", name)}
        call = list(map(str, [self.python, *words]))
        done = subprocess.run(call, cwd=self.elsewhere, env=environment, capture_output=True, text=True)
        assert done.returncode == code, done.stderr
        return done.stderr if code else done.stdout


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    """See `Installed`."""
    return Installed(tmp_path_factory.mktemp("wheel"))


def test_every_file_of_the_checkout_is_in_it(installed):
    told = installed.run("-c", "from safeeraser.benchmark.files import CONFIG, PACKAGE; print(CONFIG, PACKAGE)")
    inside = installed.packages / "safeeraser"
    assert told.split() == [str(inside / "config"), str(inside)]
    for source, place in ((ROOT / "safeeraser", inside), (ROOT / "config", inside / "config")):
        files = [path for path in source.rglob("*") if path.is_file() and "__pycache__" not in path.parts]
        assert len(files) > 20 and not [path for path in files if not (place / path.relative_to(source)).is_file()]


def test_it_asks_for_all_that_it_imports_and_pins_nothing(installed):
    """`requirements.txt` has the same packages, pinned."""
    (there,) = importlib.metadata.distributions(name="safeeraser", path=[str(installed.packages)])
    plain = lambda name: name.lower().replace("_", "-")  # noqa: E731
    asked = [re.fullmatch(r"([\w.-]+)>=[\d.]+", line)[1] for line in there.requires if "extra ==" not in line]
    train = [found[1] for line in there.requires if (found := re.match(r"([\w.-]+)>=[\d.]+; extra == .train", line))]
    lines = [line for line in (ROOT / "requirements.txt").read_text().splitlines() if line[:1] not in ("#", "")]
    assert [line.split("==")[0] for line in lines] == asked + train and there.metadata["Requires-Python"] == ">=3.11"
    owners, known = importlib.metadata.packages_distributions(), {*map(plain, asked + train), *EXTRAS}
    assert [*map(plain, train)] == [plain(owners[name][0]) for name in TRAINING]
    for file in (*(ROOT / "safeeraser").rglob("*.py"), *ROOT.glob("*.py")):
        for name in set(re.findall(r"^\s*(?:from|import) (\w+)", file.read_text(), re.MULTILINE)) & owners.keys():
            assert {*map(plain, owners[name])} & known, (file, name)


def test_answers_become_figures_without_torch(installed):
    rooms = (ROOT / "safeeraser" / room for room in ("benchmark", "judge", "score", "report", "specificity"))
    files = [file for room in rooms for file in room.glob("*.py") if file.stem not in ("__main__", "probe")]
    assert len(files) > 30
    installed.run("-c", "".join(f"import safeeraser.{file.parent.name}.{file.stem}\n" for file in files))


def test_scoring_and_the_report_need_no_torch_and_find_every_file(installed, tmp_path):
    """It finds prompts, prices, the cases of --check_judge and templates from another folder, without `train`."""
    told = "error: forget.py needs torch. Install it with pip install -e '.[train]'\n"
    assert installed.run(ROOT / "forget.py", "forget_loss=popd", code=2) == told
    assert told.replace("forget.py", "python -m safeeraser.model") == installed.run("-m", "safeeraser.model", code=2)
    records, out = [record(0), record(1, "Sex")], tmp_path / "popd"
    predictions, reference = write_files(tmp_path, records, [predicted(value) for value in records])
    given = ("--input_file", predictions, "--file_refer", reference, "--output_file_rr", out / "verdicts_val.json")
    given += ("--summary", out / "summary_val.json", "--store", tmp_path / "store.jsonl")
    installed.run("-m", "eval_all", "--judge", "rules", "--label_sheet", tmp_path / "sheet.csv", *given)
    assert "<html" in (tmp_path / "sheet.html").read_text()
    installed.run("-m", "eval_all", "--judge", "rules", *given)
    assert json.loads((tmp_path / "popd" / "summary_val.json").read_text())["asr"]["n"] == 24
    installed.run("-m", "safeeraser.report", tmp_path / "popd", "--published")
    assert "<html" in (tmp_path / "popd" / "report.html").read_text()
    assert "$" in installed.run("-m", "eval_all", "--judge", "openai", "--dry_run", *given)
    assert "RR" in installed.run("-m", "eval_all", "--check_judge", "--judge", "rules", "--min_accuracy", 0)
