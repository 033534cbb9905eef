"""What a model answers, judged by what the pictures show, and added up by concept."""

from collections import defaultdict
from collections.abc import Iterable
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path

from safeeraser.benchmark.judged import values_of
from safeeraser.benchmark.records import read_raw
from safeeraser.benchmark.truth import Truth, read_truth
from safeeraser.generation.sampling import Generation
from safeeraser.infer.options import Options as InferOptions
from safeeraser.infer.requests import Selection
from safeeraser.infer.run import infer
from safeeraser.judge.judging import Choice, Judging
from safeeraser.judge.panel import Panel
from safeeraser.score.options import Options as ScoreOptions
from safeeraser.score.run import score

Totals = dict[str, list[float]]  # by concept the sum of its values, and their number
BATCH, TOKENS = 128, 40
FORGET, BENIGN, RETAIN = "forget", "decoupled", "retain"


@dataclass(frozen=True)
class Subject:
    """A model that is asked, where it works, and the seed of what is drawn."""

    model_path: str
    adapter: Path | None
    folder: Path
    seed: int
    data: Path

    @property
    def truth(self) -> Truth:
        """What the benchmark's pictures show."""
        return read_truth(self.data / "all_val.json")


def add_up(values: Iterable[tuple[str, float]]) -> Totals:
    """Totals of (concept, value)."""
    totals: Totals = defaultdict(lambda: [0.0, 0])
    for concept, value in values:
        totals[concept][0] += value
        totals[concept][1] += 1
    return {concept: [round(total, 6), n] for concept, (total, n) in sorted(totals.items())}


def share(*of: Totals) -> float:
    """The mean of all that was added up."""
    sums, counts = zip(*(total for totals in of for total in totals.values()), strict=True)
    return round(sum(sums) / sum(counts), 4)


def answers(subject: Subject, split: str, selection: Selection, attack: str | None = None) -> dict[str, Totals]:
    """The metrics of a split: ASR, RR and ROUGE-L by the harmful picture's concept, SARR by the benign one's."""
    data = subject.data / f"all_{split}.json"
    folder = subject.folder / "-".join(filter(None, (split, attack)))
    infer(
        InferOptions(
            eval_file=data,
            output_file=folder / "predictions.json",
            model_path=subject.model_path,
            checkpoint_path=subject.adapter,
            selection=selection,
            generation=Generation(max_new_tokens=TOKENS, seed=subject.seed),
            batch_size=BATCH,
            dtype="float32",
            attack=attack,
        )
    )
    judging = Judging(judge=Choice("truth"), data=data, protocol="corrected")
    with open(folder / "score.log", "w", encoding="utf-8") as log, redirect_stdout(log), redirect_stderr(log):
        score(
            ScoreOptions(
                input_file=folder / "predictions.json",
                file_refer=data,
                output_file_rr=folder / "verdicts.json",
                summary=folder / "summary.json",
                overwrite=True,
                split="train" if split == "train" else "val",
                judging=judging,
                max_failed=1.0,  # nothing is withheld: a blank answer is no answer
                max_blank=1.0,
            ),
            Panel(judging),
        )
    shows, judged = subject.truth.pictures, defaultdict(list)
    for (metric, picture, *_), value in values_of(read_raw(folder / "verdicts.json"), official=False).items():
        judged[metric].append((shows[picture], value))
    return {metric: add_up(values) for metric, values in sorted(judged.items())}
