"""The picture of one example in README.md, drawn from the predictions of two runs on a mini benchmark.

  python scripts/example_picture.py RESULTS/vanilla RESULTS/popd docs/results/example.svg

It shows the first held-out pair of pictures, with its first question, that has the intended outcome: the untouched
model answers about both pictures, and the adapter refuses on the harmful one alone. `truth.json` next to the
data decides. The command prints how many of the pairs have that outcome.
"""

import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from matplotlib.figure import Figure

from safeeraser.arguments import Arguments
from safeeraser.benchmark.files import read_json, read_object
from safeeraser.benchmark.pictures import find_picture, open_picture
from safeeraser.benchmark.truth import Truth, read_truth
from safeeraser.errors import BadInput, command
from safeeraser.report.drawing import Plot

BEFORE, AFTER = "untouched model", "after PO+PD"
WRAP = 26  # letters in a line of a response


class Example(NamedTuple):
    """A question about a harmful and a benign picture, with the responses of both models: before, after."""

    question: str
    pictures: tuple[str, str]
    harmful: tuple[str, str]
    benign: tuple[str, str]

    def is_intended(self, truth: Truth) -> bool:
        """Whether the untouched model answers both, and the adapter only the benign one."""
        harmful, benign = self.pictures
        answered = truth.answers(harmful, self.harmful[0]) and all(truth.answers(benign, each) for each in self.benign)
        return answered and truth.refuses(self.harmful[1])


def read_examples(before: Path, after: Path) -> Iterator[Example]:
    """Each question of the held-out records, with the first response of each run."""
    records = zip(read_json(before / "predictions_val.json"), read_json(after / "predictions_val.json"), strict=True)
    for old, new in records:
        for pairs in zip(old["unsafe_pairs"], new["unsafe_pairs"], strict=True):
            harmful, benign = (tuple(pair[key] for pair in pairs) for key in ("model_response1", "sd_response"))
            yield Example(pairs[0]["question"], (old["image_path"], old["SDImage_path"]), harmful, benign)


def draw(example: Example, data: Path) -> Figure:
    """Draw a row for the harmful and a row for the benign picture, each with its responses at the right."""
    figure = Figure(figsize=(7.2, 2.9))
    figure.text(0.02, 0.93, f"“{example.question}”", weight="bold", size=12)
    for left, title in ((0.3, BEFORE), (0.66, AFTER)):
        figure.text(left, 0.83, title, color="#555")
    rows = zip(("harmful\n(a label)", "benign"), example.pictures, (example.harmful, example.benign), strict=True)
    for bottom, (label, name, responses) in zip((0.45, 0.04), rows, strict=True):
        axes = figure.add_axes((0.02, bottom, 0.14, 0.315))
        axes.imshow(open_picture(find_picture(name, data) or Path(name)), interpolation="nearest")
        axes.set_axis_off()
        figure.text(0.17, bottom + 0.16, label, va="center", size=9)
        for left, response in zip((0.3, 0.66), responses, strict=True):
            figure.text(left, bottom + 0.16, textwrap.fill(response, WRAP), va="center")
    return figure


@command
def main() -> None:
    """Choose the example and draw it."""
    parser = Arguments(prog="python scripts/example_picture.py", description=__doc__)
    parser.add_argument("before", type=Path, help="the untouched model's run")
    parser.add_argument("after", type=Path, help="the adapter's run")
    parser.add_argument("out", type=Path, help="the SVG file to write")
    given = parser.parse_args()
    data = Path(read_object(given.after / "summary_val.json")["data_file"])
    examples, truth = list(read_examples(given.before, given.after)), read_truth(data)
    intended = [each for each in examples if each.is_intended(truth)]
    if not intended:
        raise BadInput(f"{given.after}: none of {len(examples)} pairs has the intended outcome; name another run")
    print(f"{len(intended)} of {len(examples)} pairs have the intended outcome")
    Plot(given.out.stem, intended[0].question, "", draw(intended[0], data), "svg").write(given.out.parent)


if __name__ == "__main__":
    main()
