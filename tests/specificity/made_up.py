"""Run by the harness's own Python: the seven data sets' shapes with three made-up items each, laid under this folder.

python made_up.py PICTURE
"""

import sys
from pathlib import Path

from datasets import Dataset, Image

ROOT, PICTURE = Path("lmms-lab-encoder"), sys.argv[1]


def put(name: str, config: str, split: str, item: dict) -> None:
    """Add a split of three items to a data set; `{i}` in a text is the item's number."""
    folder = ROOT / name
    folder.mkdir(parents=True, exist_ok=True)

    def numbered(i: int) -> dict:
        return {key: value.format(i=i) if isinstance(value, str) else value for key, value in item.items()}

    rows = Dataset.from_list([{"index": i, **numbered(i)} for i in range(3)])
    rows = rows.cast_column("image", Image()) if "image" in item else rows
    rows.to_parquet(str(folder / f"{config}.parquet"))
    page = folder / "README.md"
    told = page.read_text().removesuffix("---\n") if page.exists() else "---\nconfigs:\n"
    told += f"- config_name: {config}\n  data_files:\n  - split: {split}\n    path: {config}.parquet\n"
    page.write_text(told + "---\n")


asked = {"question_id": "{i}", "question": "Juliet delta?", "image": PICTURE}
put("GQA", "testdev_balanced_instructions", "testdev", {"imageId": "{i}", "question": "Juliet?", "answer": "kilo"})
put("GQA", "testdev_balanced_images", "testdev", {"id": "{i}", "image": PICTURE})
put("VizWiz-VQA", "default", "val", {**asked, "answers": ["kilo"] * 10})
put("ScienceQA", "ScienceQA-IMG", "test", {**asked, "choices": ["kilo", "lima"], "answer": 0, "hint": ""})
answers = [{"answer": "kilo", "answer_id": i} for i in range(10)]
put("VQAv2", "default", "validation", {**asked, "answers": answers})
put("POPE", "default", "test", {**asked, "answer": "yes"})
put("MMVet", "default", "test", {**asked, "answer": "kilo", "capability": "rec,ocr"})
options = {"A": "kilo one", "B": "lima one", "C": "mike one", "D": "papa one", "answer": "B"}
kinds = {"category": "c", "L2-category": "l", "source": "s", "split": "dev", "hint": "nan"}
put("MMBench", "en", "dev", {**asked, **options, **kinds})
