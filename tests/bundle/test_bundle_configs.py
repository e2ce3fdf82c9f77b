from __future__ import annotations

from pathlib import Path

import pytest
from tiny import BRATS

from dcd_components.bundle.configs import literal, read_configs
from dcd_components.errors import InputError


@pytest.mark.parametrize("text", ["plain", "#1", "a@b", "100%", "a::b", 'it\'s "so"', "back\\slash", "$x", "\n"])
def test_a_literal_is_taken_as_it_is(text: str) -> None:
    parser = read_configs(BRATS, ["inference"])
    parser.update({"dataset_dir": literal(text), "resampled": literal([text, text])})
    assert parser.get_parsed_content("dataset_dir") == text
    assert parser.get_parsed_content("resampled") == [text, text]


def test_later_configs_go_over_earlier_ones(tmp_path: Path) -> None:
    (tmp_path / "configs").mkdir()
    (tmp_path / "configs" / "inference.yaml").write_text("{bundle_root: ., size: 1, depth: 2}")
    (tmp_path / "configs" / "small.yaml").write_text("size: 3")
    parser = read_configs(tmp_path, ["inference", "small"])
    assert [parser.get_parsed_content(key) for key in ("bundle_root", "size", "depth")] == [str(tmp_path), 3, 2]


def test_a_config_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(
        InputError, match=r"has no config quick: there is no folder configs with any; further ones are .*_teacher$"
    ):
        read_configs(tmp_path, ["quick"])
