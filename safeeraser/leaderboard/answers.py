"""Ask a model the benchmark's questions, judge its answers by `truth.json`, and add up the values by concept."""

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

Totals = dict[str, list[float]]  # concept -> [sum of its values, number of its values]
BATCH, TOKENS = 128, 40
FORGET, BENIGN, RETAIN = "forget", "decoupled", "retain"


@dataclass(frozen=True)
class Subject:
    """A model that is asked, with its working folder, its seed and the benchmark's folder."""

    model_path: str
    adapter: Path | None
    folder: Path
    seed: int
    data: Path

    @property
    def truth(self) -> Truth:
        """The truth about the benchmark's pictures: which concept each one shows, and the right answers."""
        return read_truth(self.data / "all_val.json")


def add_up(values: Iterable[tuple[str, float]]) -> Totals:
    """Add up (concept, value) pairs by concept."""
    totals: Totals = defaultdict(lambda: [0.0, 0])
    for concept, value in values:
        totals[concept][0] += value
        totals[concept][1] += 1
    return {concept: [round(total, 6), n] for concept, (total, n) in sorted(totals.items())}


def share(*of: Totals) -> float:
    """The mean of all values that the given totals add up."""
    sums, counts = zip(*(total for totals in of for total in totals.values()), strict=True)
    return round(sum(sums) / sum(counts), 4)


def answers(subject: Subject, split: str, selection: Selection, attack: str | None = None) -> dict[str, Totals]:
    """Ask and judge a split: ASR, RR and ROUGE-L by the harmful picture's concept, SARR by the benign one's."""
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
                max_failed=1.0,  # nothing is withheld: a blank response counts as no answer
                max_blank=1.0,
            ),
            Panel(judging),
        )
    shows, judged = subject.truth.pictures, defaultdict(list)
    for (metric, picture, *_), value in values_of(read_raw(folder / "verdicts.json"), official=False).items():
        judged[metric].append((shows[picture], value))
    return {metric: add_up(values) for metric, values in sorted(judged.items())}
