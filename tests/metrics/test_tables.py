import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dcd_components.errors import InputError
from dcd_components.metrics.case_scores import case_scores
from dcd_components.metrics.lesions import size_bins
from dcd_components.metrics.summary import fill_absent, summarise
from dcd_components.tables import markdown_table, read_csv, write_csv


def scores(dice: float, small: int = 0, found: int = 0) -> dict[str, Any]:
    return {
        "case": "BraTS-GLI-00005-000",
        **{"dice_ET": dice, "hd95_mm_ET": 2.0, "nsd_0.5mm_ET": 0.5, "nsd_2mm_ET": 1.0, "lesionwise_dice_ET": 0.3},
        **{"dice_RC": 0.5, "hd95_mm_RC": 4.0, "nsd_0.5mm_RC": math.nan, "nsd_2mm_RC": 0.5, "lesionwise_dice_RC": 0.1},
        **dict.fromkeys((f"{tp}lesions_{name}" for tp in ("", "tp_") for name in size_bins()), 0),
        **{"lesions": small + 2, "tp_lesions": found + 1, "small_lesions": small, "tp_small_lesions": found},
        **{"lesions_0_100mm3": small, "tp_lesions_0_100mm3": found, "lesions_over_10000mm3": 2, "fp_lesions": 1},
    }


def test_rows_survive_a_csv_file_exactly(tmp_path: Path) -> None:
    rows = [{"case": "a, b", "dice": 1 / 3, "count": 2.0}, {"case": "00005", "dice": 1e-9, "count": -1e300}]
    write_csv(rows, tmp_path / "scores.csv")
    assert read_csv(tmp_path / "scores.csv") == rows


@pytest.mark.parametrize("name", ["00005", "0005_001", "-", "", "BraTS", "1.5", "nan"])
def test_a_case_keeps_its_name_whatever_it_looks_like(tmp_path: Path, name: str) -> None:
    write_csv([{"case": name, "dice": 1}], tmp_path / "scores.csv")
    assert read_csv(tmp_path / "scores.csv") == [{"case": name, "dice": 1.0}]


def test_the_columns_of_text_are_named_by_the_caller(tmp_path: Path) -> None:
    write_csv([{"model": "007", "case": 3}], tmp_path / "table.csv")
    assert read_csv(tmp_path / "table.csv", text=["model"]) == [{"model": "007", "case": 3.0}]


def test_an_empty_cell_among_numbers_is_none(tmp_path: Path) -> None:
    rows: list[dict[str, Any]] = [{"epoch": 1.0, "val_mean_dice": None}, {"epoch": 2.0, "val_mean_dice": 0.5}]
    write_csv(rows, tmp_path / "training.csv")
    assert read_csv(tmp_path / "training.csv") == rows


@pytest.mark.parametrize("text", ["many", "1.2.3", "0,5", "-"])
def test_what_is_no_number_is_refused_where_one_is_expected(tmp_path: Path, text: str) -> None:
    write_csv([{"case": "a", "dice": text}], tmp_path / "scores.csv")
    with pytest.raises(InputError, match=f"scores.csv must hold numbers in column 'dice', got '{text}'"):
        read_csv(tmp_path / "scores.csv")


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, np.float32(0.5), np.float64(0.1), 7])
def test_every_kind_of_number_is_read_back(tmp_path: Path, value: float) -> None:
    write_csv([{"dice": value}], tmp_path / "scores.csv")
    assert read_csv(tmp_path / "scores.csv")[0]["dice"] == pytest.approx(value, nan_ok=True)


class Unwritable:
    def __str__(self) -> str:
        raise RuntimeError("no text")


@pytest.mark.parametrize(
    ("rows", "error", "message"),
    [
        ([], ValueError, "rows for .* must be at least one"),
        ([{"a": 1}, {"b": 1}], ValueError, r"the same columns, got \[\('a',\), \('b',\)\]"),
        ([{"a": 1}, {"a": Unwritable()}], RuntimeError, "no text"),
    ],
)
def test_a_bad_row_leaves_the_existing_file_as_it_was(
    tmp_path: Path, rows: Any, error: type[Exception], message: str
) -> None:
    path = tmp_path / "scores.csv"
    path.write_text("old")
    with pytest.raises(error, match=message):
        write_csv(rows, path)
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "but there is none"),
        ("", "got 0 rows"),
        ("case,dice\n", "got 0 rows"),
        ("case,dice\na\n", "rows of its length"),
        ("case,dice\na,1,2\n", "rows of its length"),
    ],
)
def test_a_csv_file_without_whole_rows_is_refused(tmp_path: Path, content: str | None, message: str) -> None:
    path = tmp_path / "scores.csv"
    if content is not None:
        path.write_text(content)
    with pytest.raises(ValueError, match=message):
        read_csv(path)


def test_means_leave_nan_out_and_pool_the_small_lesions() -> None:
    means = summarise([scores(0.9, 3, 3), scores(math.nan, 1, 0), scores(0.7)], ["ET", "RC"])
    assert means["dice_ET"] == pytest.approx(0.8)
    assert means["mean_dice"] == pytest.approx(0.65)
    assert means["mean_hd95_mm"] == pytest.approx(3)
    assert means["mean_nsd_0.5mm"] == pytest.approx(0.5)
    assert means["mean_nsd_2mm"] == pytest.approx(0.75)
    assert means["mean_lesionwise_dice"] == pytest.approx(0.2)
    assert math.isnan(means["nsd_0.5mm_RC"])
    assert means["small_lesion_recall"] == means["recall_0_100mm3"] == pytest.approx(0.75)
    assert means["lesion_recall"] == pytest.approx((3 + 3) / (4 + 6))
    assert means["recall_over_10000mm3"] == 0
    assert math.isnan(means["recall_100_500mm3"])
    assert (means["fp_lesions"], means["cases"]) == (1, 3)
    assert "case" not in means


def test_lesion_f1_and_differences_are_means_over_cases_and_not_pooled() -> None:
    few = {"lesion_f1": 1.0, "lesion_count_difference": 0.0, "volume_difference_ml": 0.5, "lesions": 1}
    many = {"lesion_f1": 0.5, "lesion_count_difference": 6.0, "volume_difference_ml": 2.5, "lesions": 40}
    none = {"lesion_f1": math.nan, "lesion_count_difference": 0.0, "volume_difference_ml": 0.0, "lesions": 0}
    means = summarise([scores(0.9) | lesions for lesions in (few, many, none)], ["ET"])
    assert means["lesion_f1"] == pytest.approx(0.75)
    assert means["lesion_count_difference"] == pytest.approx(2)
    assert means["volume_difference_ml"] == pytest.approx(1)


def test_what_neither_mask_has_is_filled_with_the_best_score_as_the_challenges_do() -> None:
    nothing = np.zeros((9, 9, 9))
    one = nothing.copy()
    one[2:5, 2:5, 2:5] = 1
    both, half = (
        {"case": "a", **case_scores(pred, one, (1, 1, 1), {"ET": [1], "RC": [2]}, [1])} for pred in (one, nothing)
    )
    neither = {"case": "a", **case_scores(nothing, nothing, (1, 1, 1), {"ET": [1], "RC": [2]}, [1])}
    filled = fill_absent([both, half, neither])
    assert not any(math.isnan(value) for row in filled for value in row.values() if isinstance(value, float))
    assert [row["dice_ET"] for row in filled] == [1, 0, 1]
    for name in ("nsd_0.5mm", "nsd_1mm", "nsd_2mm", "boundary_dice", "lesionwise_dice", "lesionwise_f1"):
        assert [row[f"{name}_RC"] for row in filled] == [1, 1, 1]
    assert [row["lesion_f1"] for row in filled] == [1, 0, 1]
    assert [row["hd95_mm_ET"] > 0 for row in filled] == [False, True, False]
    assert [row["lesionwise_hd95_mm_RC"] for row in filled] == [0, 0, 0]
    known = {key: one for key, one in half.items() if one == one}
    assert {key: filled[1][key] for key in known} == known


def test_recall_is_nan_without_small_lesions() -> None:
    assert math.isnan(summarise([scores(0.9)], ["ET"])["small_lesion_recall"])


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([], "must not be empty"),
        ([scores(0.9)], "column 'dice_SNFH'"),
        ([scores(0.9), scores(0.9) | {"dice_SNFH": 1}], "column 'dice_SNFH'"),
        ([{"dice_SNFH": 1, "hd95_mm_SNFH": 1}], "column 'lesions'"),
        ([{"dice_SNFH": 1, "hd95_mm_SNFH": 1, "nsd_1mm_ET": 1}], "column 'nsd_1mm_SNFH'"),
    ],
)
def test_rows_without_the_scores_are_refused(rows: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        summarise(rows, ["SNFH"])


@pytest.mark.parametrize("count", ["lesions", "tp_small_lesions", "tp_lesions_0_100mm3", "lesions_over_10000mm3"])
def test_rows_without_a_count_of_lesions_are_refused(count: str) -> None:
    for rows in ([{**scores(1), count: None}], [{key: one for key, one in scores(1).items() if key != count}]):
        with pytest.raises(InputError, match=f"must have numbers in column '{count}', got"):
            summarise(rows, ["ET", "RC"])


def test_a_table_is_aligned_and_shows_nan_as_a_dash() -> None:
    rows = [{"model": "plain", "dice": 0.71239, "more": 1}, {"model": "distilled", "dice": math.nan}]
    table = markdown_table(rows, {"model": ("Student", ""), "dice": ("Dice", ".3f")})
    assert table.splitlines() == [
        "| Student   |   Dice |",
        "|:----------|-------:|",
        "| plain     |  0.712 |",
        "| distilled |      \N{EN DASH} |",
    ]


def test_a_table_names_the_missing_column() -> None:
    with pytest.raises(ValueError, match=r"row 0 must have the columns \['dice'\], got \['model'\]"):
        markdown_table([{"model": "plain"}], {"model": ("Student", ""), "dice": ("Dice", ".3f")})
