"""The pairs of answers that are compared, and the part of each answer that is measured."""

import pytest
from helpers import TRAIN, pair, record, write_dataset, write_json

from safeeraser.audit.inside.pairs import floor, read_pairs
from safeeraser.benchmark.records import read_records
from safeeraser.errors import BadInput

USES = {"cup": "drink your coffee", "kettle": "boil some water", "fish": "fill the pond", "ladder": "reach the roof"}


def made_by_rule(folder, answer="With it you can {}.", shown=tuple(USES)):
    """A data file whose answers say what each picture's thing is for, with a truth file about the things in `shown`."""
    records = [
        record(n, keyword=name, unsafe_pairs=[pair(n, model_response=answer.format(use))])
        for n, (name, use) in enumerate(USES.items())
    ]
    data = write_dataset(folder, *records)
    things = {name: {"content": USES[name], "answers": []} for name in shown}
    pictures = {value["image_path"]: value["keyword"] for value in records if value["keyword"] in shown}
    write_json(folder / "truth.json", {"refusals": ["No."], "things": things, "pictures": pictures})
    return read_records(data)


def test_whole_answers_are_those_of_two_other_keywords_to_the_same_question():
    """The draw depends on the seed, the pair's key and the file, but not on which records are chosen."""
    data = read_records(TRAIN)
    pairs = read_pairs(data, range(12))
    assert [each.key for each in pairs[3:5]] == ["0/unsafe_pairs/3", "1/unsafe_pairs/0"] and len(pairs) == 48
    said = {(one.keyword, n): each.model_response for one in data.records for n, each in enumerate(one.unsafe_pairs)}
    for each, chance in zip(pairs, floor(pairs), strict=True):
        n = int(each.key[-1])
        assert each.sources[0] == each.keyword == data.records[each.record].keyword and len(set(each.sources)) == 3
        assert (each.true, each.other, each.third) == tuple(said[keyword, n] for keyword in each.sources)
        assert (chance.true, chance.other, chance.key) == (each.other, each.third, each.key)
        assert chance.sources[:2] == each.sources[1:]
    assert read_pairs(data, [7, 3]) == pairs[28:32] + pairs[12:16]


def test_known_content_is_put_into_the_same_frame_and_too_few_keywords_are_refused(tmp_path):
    for each in read_pairs(made_by_rule(tmp_path), range(4)):
        answers = (each.true, each.other, each.third)
        assert [answer[slice(*each.span(answer))] for answer in answers] == [USES[one] for one in each.sources]
        assert each.content and answers == tuple(f"With it you can {USES[one]}." for one in each.sources)
    cup = read_pairs(made_by_rule(tmp_path / "words", answer="DRINK:  your Coffee - or {}!"), [0])[0]
    assert cup.true[slice(*cup.span(cup.true))] == "DRINK:  your Coffee", "it is found by its words"
    # The truth does not know the first picture.
    unknown, known, *_ = read_pairs(made_by_rule(tmp_path / "one", shown=("kettle", "fish", "ladder")), range(4))
    assert not unknown.content and known.content and "cup" not in known.sources
    data = read_records(write_dataset(tmp_path / "few", record(0, keyword="a"), record(1, keyword="b")))
    with pytest.raises(BadInput, match=r"record 0, unsafe_pairs\.0: fewer than two other keywords"):
        read_pairs(data, [0])
