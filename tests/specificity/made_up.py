"""Run by the harness's own Python: the seven data sets' shapes with three made-up items each, laid here."""

import sys
from pathlib import Path

import yaml
from datasets import Dataset, Image

PICTURE = sys.argv[1]  # its one word
for name, config, split, item in yaml.safe_load(Path(__file__).with_suffix(".yaml").read_text()):
    folder = Path("lmms-lab-encoder", name)
    folder.mkdir(parents=True, exist_ok=True)
    told = {key: PICTURE if key == "image" else value for key, value in item.items()}
    texts = {key for key, value in told.items() if isinstance(value, str)}  # in which `{i}` is the item's number
    numbered = ({key: told[key].format(i=i) if key in texts else told[key] for key in told} for i in range(3))
    rows = Dataset.from_list([{"index": i, **one} for i, one in enumerate(numbered)])
    rows = rows.cast_column("image", Image()) if "image" in item else rows
    rows.to_parquet(str(folder / f"{config}.parquet"))
    page = folder / "README.md"
    text = page.read_text().removesuffix("---\n") if page.exists() else "---\nconfigs:\n"
    text += f"- config_name: {config}\n  data_files:\n  - split: {split}\n    path: {config}.parquet\n"
    page.write_text(text + "---\n")
