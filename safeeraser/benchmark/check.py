"""Check a dataset folder: `python -m safeeraser.benchmark.check dataset`.

Prints counts per category, and each fault with its place: invalid records, blank answers, missing and undecodable
pictures. Never prints a question or an answer. Exits with 2 if anything is wrong.
"""

from collections import Counter
from pathlib import Path

from rich.console import Console
from rich.progress import track
from rich.table import Table

from safeeraser.arguments import Arguments
from safeeraser.benchmark.pictures import find_picture, open_picture
from safeeraser.benchmark.records import UNHARM_KEYS, Record, problems, read_raw, read_refusals
from safeeraser.errors import BadInput, command

FILES = ("all_train.json", "all_val.json")
SHOWN = 50  # faults printed; the others are only counted


def check_folder(folder: Path) -> tuple[dict[str, list[Record]], list[str]]:
    """Read both data files and find every fault in the folder, not only the first.

    Returns:
        The valid records by file, and the faults as lines that name their place.
    """
    records: dict[str, list[Record]] = {}
    faults: list[str] = []
    try:
        read_refusals(folder / FILES[0])
    except BadInput as error:
        faults.append(str(error))
    for name in FILES:
        try:
            raw = read_raw(folder / name)
        except BadInput as error:
            faults.append(str(error))
            continue
        records[name] = []
        for index, value in enumerate(track(raw, description=f"checking {name}")):
            wrong = problems(value)
            if not wrong:
                record = Record.model_validate(value)
                records[name].append(record)
                wrong = _lacking(record) + _blank_answers(record) + _bad_pictures(record, folder / name)
            faults += [f"{folder / name}: record {index}, {fault}" for fault in wrong]
    return records, faults


def _lacking(record: Record) -> list[str]:
    """Missing keys that every record of the benchmark has, though records of your own data need not."""
    keys = {"image_path": record.image_path, "SDImage_path": record.SDImage_path} | {
        key: record.unharm.get(key) for key in UNHARM_KEYS
    }
    return [f"{key}: missing" for key, value in keys.items() if not value]


def _blank_answers(record: Record) -> list[str]:
    answers = {f"{key}.Prediction": pair.Prediction for key, pair in record.unharm.items()}
    for number, pair in enumerate(record.unsafe_pairs):
        answers[f"unsafe_pairs.{number}.model_response"] = pair.model_response
        answers[f"unsafe_pairs.{number}.sd_response"] = pair.sd_response
    return [f"{key}: empty" for key, answer in answers.items() if not answer.strip()]


def _bad_pictures(record: Record, data_path: Path) -> list[str]:
    faults = []
    for key, name in (("image_path", record.image_path), ("SDImage_path", record.SDImage_path)):
        path = find_picture(name, data_path)
        try:
            if path:
                open_picture(path)
            elif name:
                faults.append(f"{key}: picture {name} not found")
        except BadInput as error:
            faults.append(f"{key}: {error}")
    return faults


def counts_table(records: dict[str, list[Record]]) -> Table:
    """A table of the number of records by category and file."""
    table = Table(title="records")
    table.add_column("category")
    counts = {name: Counter(record.category for record in of_file) for name, of_file in records.items()}
    for name in counts:
        table.add_column(name, justify="right")
    for category in sorted({category for count in counts.values() for category in count}):
        table.add_row(category, *(str(count[category]) for count in counts.values()))
    table.add_section()
    table.add_row("all", *(str(count.total()) for count in counts.values()))
    return table


@command
def main() -> int:
    """Print the counts and the faults; return 2 if there are faults."""
    parser = Arguments(description=__doc__)
    parser.add_argument(
        "folder", type=Path, nargs="?", default=Path("dataset"), help="of a benchmark (default: %(default)s)"
    )
    records, faults = check_folder(parser.parse_args().folder)
    Console().print(counts_table(records))
    for fault in faults[:SHOWN]:
        print(fault)
    if len(faults) > SHOWN:
        print(f"... and {len(faults) - SHOWN} more")
    print(f"{len(faults)} faults" if faults else "nothing wrong")
    return 2 if faults else 0


if __name__ == "__main__":
    main()
