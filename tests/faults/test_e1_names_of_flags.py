"""A message about a missing model names a flag that the command has."""

import re
from pathlib import Path

import pytest

import handdata
from handdata.errors import UserError
from handdata.recipe import CaptionOptions, RewriteOptions, find, flag, load
from handdata.stages.caption import Captions
from handdata.stages.rewrite import load_model

MINI = load(find("mini"))
SOURCES = [path.read_text(encoding="utf-8") for path in Path(handdata.__file__).parent.rglob("*.py")]
FLAGS = sorted({found for text in SOURCES for found in re.findall(r"flag\([\"'](\w+)[\"'], [\"'](\w+)[\"']\)", text)})


def test_e1_every_flag_in_a_message_is_a_key_of_the_recipe():
    assert ("rewrite", "model") in FLAGS and ("caption", "model") in FLAGS
    for table, key in FLAGS:
        assert hasattr(getattr(MINI, table), key), flag(table, key)


def test_e1_a_missing_model_names_the_flags_of_build_and_of_the_stage(tmp_path):
    both = r"--{0}\.model \(in `handdata {0}`: --model\)"
    with pytest.raises(UserError, match=both.format("rewrite")):
        load_model(RewriteOptions(str(tmp_path / "missing.gguf")))
    with pytest.raises(UserError, match=both.format("caption")):
        Captions.fingerprint(CaptionOptions("no such name"))
