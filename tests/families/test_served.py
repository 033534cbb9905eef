"""A merged folder of another family behind `transformers serve`: it answers as adapter and base do here."""

import base64
from pathlib import Path

import pytest
from helpers import RECORDED
from infer.conftest import served
from openai import OpenAI

from safeeraser.model import merge

from .recorded import Recorded

pytestmark = pytest.mark.slow


def as_address(picture: Path) -> str:
    return f"data:image/jpeg;base64,{base64.b64encode(picture.read_bytes()).decode()}"


@pytest.mark.parametrize("name", ["gemma3", "idefics3"])
def test_a_served_merged_folder_answers_letter_by_letter(tmp_path, name):
    """The first record's rows, in the model's own words: no system text is sent. Gemma 3's head is tied."""
    family = Recorded(name)
    merge(family.adapter, tmp_path / "model", model_path=family.path)
    with served(tmp_path / "model", tmp_path / "log.txt") as server:
        client = OpenAI(base_url=server.url, api_key="none")
        for row, adapted in zip(family.rows, family.figures["with_adapter"], strict=False):
            picture = {"type": "image_url", "image_url": {"url": as_address(RECORDED / row["picture"])}}
            content = [picture, {"type": "text", "text": row["question"]}]
            asked = {"model": server.model, "messages": [{"role": "user", "content": content}]}
            reply = client.chat.completions.create(**asked, max_tokens=24, temperature=0)
            assert reply.choices[0].message.content.strip() == adapted["response"]
