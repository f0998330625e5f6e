from __future__ import annotations

import numpy as np
import pytest

from thermojax import datasets, tables


def write(tmp_path, text, name="table.csv"):
    path = tmp_path / name
    path.write_text(text, encoding="utf-8")
    return path


def message(call, *args, kind=ValueError, **kwargs):
    with pytest.raises(kind) as caught:
        call(*args, **kwargs)
    text = str(caught.value)
    assert "\n" not in text
    return text


GOOD = "height,width,kind\n1,2.5,cat\n2,0.5,dog\n3,1.5,cat\n4,2.0,dog\n"


def test_text_target(tmp_path):
    data = datasets.load(f"csv:{write(tmp_path, GOOD)}", target="kind", test_fraction=0)
    assert data.class_names == ("cat", "dog")
    assert data.targets.tolist() == [0, 1, 0, 1]
    assert data.feature_names == ("height", "width")
    np.testing.assert_allclose(
        data.inputs[:, 0], (np.arange(4) - 1.5) / np.sqrt(1.25), rtol=1e-6
    )


def test_reader_takes_byte_order_marks_blank_lines_and_quotes(tmp_path):
    text = '\ufeffa,"b, c",y\n1,2,u\n\n3,"4",v\n'
    data = datasets.load(f"csv:{write(tmp_path, text)}", target="y", test_fraction=0)
    assert data.feature_names == ("a", "b, c")
    assert data.inputs.shape == (2, 2)


@pytest.mark.parametrize(
    ("cells", "task", "classes"),
    [
        (["3", "1", "3", "1"], "classification", ("1", "3")),
        (["3.0", "1", "3", "1"], "classification", ("1", "3")),
        (["3.5", "1", "3", "1"], "regression", ()),
        ([str(i) for i in range(20)], "classification", tuple(str(i) for i in range(20))),
        ([str(i) for i in range(21)], "regression", ()),
    ],
)
def test_task_rule(tmp_path, cells, task, classes):
    rows = "\n".join(f"{i},{cell}" for i, cell in enumerate(cells))
    data = datasets.load(
        f"csv:{write(tmp_path, f'x,y{chr(10)}{rows}')}", target="y", test_fraction=0
    )
    assert (data.task, data.class_names) == (task, classes)


@pytest.mark.parametrize(
    ("text", "target", "parts"),
    [
        (GOOD, None, ["target", "--target", "height, width, kind"]),
        (GOOD, "knd", ["'knd'", "did you mean 'kind'"]),
        (GOOD, "zzz", ["'zzz'", "choose one of height, width, kind"]),
        ("", "y", ["empty", "header"]),
        ("\n\n", "y", ["empty", "header"]),
        ("a,y\n", "y", ["no rows"]),
        ("1,2\n3,4\n", "y", ["line 1", "header"]),
        ("a,,y\n1,2,3\n", "y", ["line 1", "column 2 has no name"]),
        ("a,a,y\n1,2,3\n", "y", ["line 1", "'a' occurs twice", "rename"]),
        ("a,y\n1,0\n1,2,3\n", "y", ["line 3", "3 cells", "header has 2"]),
        ("a;y\n1;0\n", "a;y", ["only the target column"]),
        ("a,y\n1,0\nred,1\n", "y", ["line 3", "'a'", "'red'", "not a number"]),
        ("a,y\n1,0\n,1\n", "y", ["line 3", "'a' is empty", "drop the row"]),
        ("a,y\n1,0\nnan,1\n", "y", ["line 3", "'a'", "'nan'", "impute"]),
        ("a,y\ninf,0\n1,1\n", "y", ["line 2", "'a'", "'inf'", "impute"]),
        ("a,y\n1,0\n2,\n", "y", ["line 3", "'y' is empty"]),
        ("a,y\n1,cat\n2,\n", "y", ["line 3", "'y' is empty"]),
        ("a,y\n1,\n2,\n", "y", ["line 2", "'y' is empty"]),
        ("a,y\n1,nan\n2,3.5\n", "y", ["line 2", "'y'", "'nan'"]),
        ("a,y\n1,1.5\n2,dog\n", "y", ["line 3", "'y'", "'dog'"]),
        ("a,y\n1,3\n2,3\n", "y", ["'y' is '3' in every row", "another target"]),
        ("a,y\n1,cat\n2,cat\n", "y", ["'y' is 'cat' in every row"]),
    ],
)
def test_errors_name_place_value_and_mend(tmp_path, text, target, parts):
    path = write(tmp_path, text)
    said = message(datasets.load, f"csv:{path}", target=target)
    for part in [str(path), *parts]:
        assert part in said


def test_target_of_row_labels_is_refused(tmp_path):
    rows = "\n".join(f"{i},id{i}" for i in range(30))
    said = message(datasets.load, f"csv:{write(tmp_path, 'x,y' + chr(10) + rows)}", target="y")
    assert "30 distinct texts in 30 rows" in said


def test_files_that_cannot_be_read(tmp_path):
    said = message(datasets.load, "csv:nowhere.csv", target="y", kind=FileNotFoundError)
    assert "nowhere.csv does not exist" in said
    said = message(datasets.load, f"csv:{tmp_path}", target="y", kind=FileNotFoundError)
    assert "is a folder" in said
    binary = tmp_path / "latin.csv"
    binary.write_bytes(b"a,y\n\xff\xfe,1\n")
    assert "UTF-8" in message(datasets.load, f"csv:{binary}", target="y")
    nul = tmp_path / "quote.csv"
    nul.write_text("a,y\n" + "9" * 200_000 + ",1\n")
    assert "not a readable CSV file" in message(datasets.load, f"csv:{nul}", target="y")
    assert "needs a file name" in message(datasets.load, "csv:", target="y")
    with pytest.raises(FileNotFoundError):
        tables.read_csv(tmp_path / "no.csv", "y")
