"""Configs that are made of heads and parts, and texts laid over each other."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
import yaml
from tiny import ROOT

from dcd_components.bundle import assemble
from dcd_components.errors import InputError

HEAD = """\
# What it is for.
#   its command

size: 1  # mm
# Of depth.
depth:
  - 2

"""


def test_there_is_no_link_in_git() -> None:
    """A zip that a forge makes of them cannot be unpacked on Windows."""
    listed = subprocess.run(["git", "ls-files", "--stage"], cwd=ROOT, capture_output=True, text=True, check=False)
    if listed.returncode:
        pytest.skip("no git, or no repository")
    assert listed.stdout
    assert [line for line in listed.stdout.splitlines() if line.startswith("120000")] == []


@pytest.fixture
def config(tmp_path: Path) -> Path:
    """A config that takes what it does not say from ``base.yaml``."""
    (tmp_path / "base.yaml").write_text(HEAD + assemble.mark("other.yaml") + "not_ours: 1\n")
    path = tmp_path / "config.yaml"
    path.write_text(f"# A config.\n\nsize: 2\n\n{assemble.mark('base.yaml')}stale: 1\n")
    return path


def test_a_head_decides_and_what_else_the_named_file_s_head_says_follows(config: Path) -> None:
    text = assemble.assembled(config)
    expected = f"# A config.\n\nsize: 2\n\n{assemble.mark('base.yaml')}# Of depth.\ndepth:\n  - 2\n"
    assert text == expected
    config.write_text(text)
    assert assemble.assembled(config) == text


def test_a_file_that_is_not_there_is_named(config: Path) -> None:
    config.write_text("# ==== from nowhere.yaml: edit it there, then make configs ====\n")
    with pytest.raises(InputError, match=r"config.yaml: no file nowhere.yaml, expected a config beside it or a part "):
        assemble.assembled(config)


@pytest.mark.parametrize("title", ["", "# A title\n# of two lines.\n", "# A title,\n\n"], ids=["none", "near", "apart"])
def test_blocks_are_settings_with_the_comments_above_them(title: str) -> None:
    text = f'{title}size: 1\n\n# Of\n# depth.\n"+depth":\n  - a: 2  # not a key of the uppermost level\n'
    found = dict(assemble.blocks(text))
    assert list(found) == ["size", "+depth"]
    assert found["+depth"].startswith("# Of\n# depth.\n")
    assert yaml.safe_load("".join(found.values())) == {"size": 1, "+depth": [{"a": 2}]}


def test_an_overlay_s_settings_replace_the_config_s_or_follow_them() -> None:
    overlay = "# An overlay.\ndepth::0: 4\nsize: 3\n"
    laid = assemble.laid_over(HEAD, overlay)
    assert yaml.safe_load(laid) == {"depth": [2], "depth::0": 4, "size": 3}
    assert laid.startswith("# What it is for.\n#   its command\n\n# Of depth.\n")
    assert "An overlay" not in laid


def test_what_has_no_place_is_left_out_unless_something_that_has_one_refers_to_it() -> None:
    overlay = "size: '@used'\nused: '%twice_used'\ntwice_used: 1\nunused: 2\nother::key: 3\n"
    assert yaml.safe_load(assemble.laid_over(HEAD, overlay)) == {
        "depth": [2],
        "size": "@used",
        "used": "%twice_used",
        "twice_used": 1,
    }
