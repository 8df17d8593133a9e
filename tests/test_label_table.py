"""cxr.conversion.label_table: labels, patients and splits out of a table."""

import pathlib

import pytest

from cxr import cli
from cxr.conversion import sources
from cxr.conversion.sources import SourceConfig

NIH = "Image Index,Finding Labels,Follow-up #,Patient ID,Patient Age,Patient Gender\n"


def folder(root: pathlib.Path, *paths: str) -> pathlib.Path:
    for path in paths:
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_bytes(path.encode())
    return root


def find(root: pathlib.Path, table: str, **flags) -> sources.Tree:
    path = root.parent / "labels.csv"
    path.write_text(table, encoding="utf-8")
    return sources.find(root, SourceConfig(labels_csv=str(path), **flags))


def labels(tree: sources.Tree) -> dict[str, str]:
    return {source.path: source.label for source in tree.sources}


def test_chest_xray14(tmp_path):
    root = folder(
        tmp_path / "films", *(f"images_00{i}/images/{i}.png" for i in range(4))
    )
    table = NIH + (
        "0.png,No Finding,0,1,058Y,M\n1.png,Pneumonia|Effusion,0,2,7,F\n"
        "2.png,Effusion,0,2,,\n9.png,No Finding,0,3,1,M\n0.png,No Finding,0,1,058Y,M\n"
    )
    tree = find(root, table, label="Pneumonia")
    assert [(s.path, s.label, s.patient) for s in tree.sources] == [
        ("images_000/images/0.png", "NOT_Pneumonia", "1"),
        ("images_001/images/1.png", "Pneumonia", "2"),
        ("images_002/images/2.png", "NOT_Pneumonia", "2"),
    ]
    assert tree.sources[0].attributes[:2] == ("50-59", "M")
    assert {(r.path, r.reason) for r in tree.rejected} == {
        ("9.png", "no_file"),
        ("images_000/images/0.png", "duplicate_row"),
        ("images_003/images/3.png", "no_label"),
    }
    assert "path from 'Image Index'" in tree.notes[0]
    assert "patient from 'Patient ID'" in tree.notes[0]


def test_several_labels_need_one_to_be_chosen(tmp_path):
    root = folder(tmp_path / "films", "0.png", "1.png")
    table = NIH + "0.png,No Finding,0,1,,\n1.png,Pneumonia|Effusion,0,2,,\n"
    with pytest.raises(cli.UsageError, match=r"--label=") as caught:
        find(root, table)
    assert len(str(caught.value).splitlines()) <= 6
    with pytest.raises(cli.UsageError, match=r"--label=TB: no film .* has it"):
        find(root, table, label="TB")


def test_the_rest_keeps_its_own_name_where_all_carry_it(tmp_path):
    root = folder(tmp_path / "films", "0.png", "1.png")
    table = NIH + "0.png,No Finding,0,1,,\n1.png,Pneumonia,0,2,,\n"
    expected = {"0.png": "No Finding", "1.png": "Pneumonia"}
    assert labels(find(root, table, label="Pneumonia")) == expected
    assert labels(find(root, table)) == expected


CHEXPERT = "Path,Sex,Age,Frontal/Lateral,AP/PA,No Finding,Edema,Pneumonia\n"


@pytest.mark.parametrize(
    ("uncertain", "expected"),
    [
        ("drop", {"0": "Edema", "1": "NOT_Edema"}),
        ("positive", {"0": "Edema", "1": "NOT_Edema", "2": "Edema"}),
        ("negative", {"0": "Edema", "1": "NOT_Edema", "2": "NOT_Edema"}),
    ],
)
def test_chexpert(tmp_path, uncertain, expected):
    paths = [f"train/patient0000{i}/study1/view1_frontal.jpg" for i in range(3)]
    root = folder(tmp_path / "films", *paths)
    prefix = "CheXpert-v1.0-small/"
    table = CHEXPERT + (
        f"{prefix}{paths[0]},Female,61,Frontal,AP,,1.0,\n"
        f"{prefix}{paths[1]},Male,91,Frontal,PA,,0.0,1.0\n"
        f"{prefix}{paths[2]},Male,20,Frontal,AP,,-1.0,\n"
    )
    tree = find(root, table, label="Edema", uncertain=uncertain)
    found = {
        path.split("patient0000")[1][0]: name for path, name in labels(tree).items()
    }
    assert found == expected
    assert tree.sources[0].attributes[:3] == ("60-69", "F", "AP")
    assert tree.sources[1].attributes[0] == "90+"
    dropped = [r.path for r in tree.rejected if r.reason == "uncertain_label"]
    assert dropped == ([paths[2]] if uncertain == "drop" else [])


def test_one_column_a_class_with_one_label_each(tmp_path):
    root = folder(tmp_path / "films", "0.png", "1.png", "2.png")
    table = "filename,NORMAL,TB\n0.png,1,0\n1.png,0,1\n2.png,0,0\n"
    tree = find(root, table)
    assert labels(tree) == {"0.png": "NORMAL", "1.png": "TB"}
    assert [(r.path, r.reason) for r in tree.rejected] == [("2.png", "no_label")]


def test_rsna(tmp_path):
    root = folder(tmp_path / "films", "abc.dcm", "def.dcm")
    table = (
        "patientId,x,y,width,height,Target\nabc,,,,,0\ndef,1,2,3,4,1\ndef,5,6,7,8,1\n"
    )
    assert labels(find(root, table)) == {"abc.dcm": "0", "def.dcm": "1"}
    tree = find(root, table, label="Pneumonia")
    assert labels(tree) == {"abc.dcm": "NOT_Pneumonia", "def.dcm": "Pneumonia"}
    assert [s.patient for s in tree.sources] == ["", ""]


def test_vindr_rows_of_one_film_are_put_together(tmp_path):
    root = folder(tmp_path / "films", *(f"{i}.png" for i in range(3)))
    table = (
        "image_id,class_name,rad_id\n0,No finding,R1\n1,Nodule,R1\n1,Edema,R2\n"
        "2,Edema,R1\n"
    )
    with pytest.raises(cli.UsageError, match="--label="):
        find(root, table)
    tree = find(root, table, label="Nodule")
    assert labels(tree) == {
        "0.png": "NOT_Nodule",
        "1.png": "Nodule",
        "2.png": "NOT_Nodule",
    }


def test_rows_that_contradict_each_other_are_kept_out(tmp_path):
    names = [f"{i}.png" for i in range(100)]
    root = folder(tmp_path / "films", *names)
    rows = "".join(f"{name},{'A' if i % 2 else 'B'}\n" for i, name in enumerate(names))
    tree = find(root, f"file,label\n{rows}7.png,B\n")
    assert len(tree.sources) == 99
    assert [(r.path, r.reason) for r in tree.rejected] == [("7.png", "label_conflict")]


def test_splits_and_named_columns(tmp_path):
    root = folder(tmp_path / "films", "0.png", "1.png", "2.png")
    table = "a;b;c;d\n0.png;X;TRAIN;p\n1.png;Y;Valid;q\n2.png;X;test;p\n"
    columns = {
        f"csv_{role}_column": name
        for role, name in zip(
            ("path", "label", "split", "patient"), "abcd", strict=True
        )
    }
    tree = find(root, table, **columns)
    assert [(s.side, s.patient) for s in tree.sources] == [
        ("train", "p"),
        ("val", "q"),
        ("test", "p"),
    ]
    with pytest.raises(cli.DataError, match=r"row 2.*d='p' is no split"):
        find(root, table, **{**columns, "csv_split_column": "d"})


def test_the_nearest_path_is_meant(tmp_path):
    root = folder(tmp_path / "films", "a/x.png", "b/x.png", "y.png", "c/y.jpg")
    table = "path,label\nelse/a/x.png,A\nb\\x.png,B\ny.jpg,A\n"
    assert labels(find(root, table)) == {"a/x.png": "A", "b/x.png": "B", "c/y.jpg": "A"}
    table = "path,label\na/x.dcm,A\nb/x,B\ny.jpg,A\n"
    assert labels(find(root, table)) == {"a/x.png": "A", "b/x.png": "B", "c/y.jpg": "A"}
    with pytest.raises(cli.DataError, match=r"'x\.png' could be a/x\.png or b/x\.png"):
        find(root, "path,label\nx.png,A\ny.jpg,B\n")


def test_labels_are_mapped(tmp_path):
    root = folder(tmp_path / "films", "0.png", "1.png")
    tree = find(
        root, "file,label\n0.png,healthy\n1.png,TB\n", class_map=("healthy=NORMAL",)
    )
    assert labels(tree) == {"0.png": "NORMAL", "1.png": "TB"}


@pytest.mark.parametrize(
    ("table", "flags", "complaint"),
    [
        ("", {}, "no header"),
        ("x,y\n0.png,A\n", {}, "--csv_path_column=NAME"),
        ("file,label\n0.png,A\n", {"csv_label_column": "Z"}, "has no such column"),
        ("file,label\n7.png,A\n8.png,B\n", {}, "none of its rows names a film"),
        ("file,label\n0.png,A,B,C\n", {}, "line 2: 4 cells under 2 headings"),
        ("file,label\n0.png,A\n1.png,A\n", {}, "only one class"),
        ("FILE NAME,FORMAT\n0.png,PNG\n1.png,PNG\n", {}, "--csv_label_column=NAME"),
    ],
)
def test_tables_that_make_no_set(tmp_path, table, flags, complaint):
    root = folder(tmp_path / "films", "0.png", "1.png")
    with pytest.raises(cli.CommandError, match=complaint):
        find(root, table, **flags)


def test_a_table_that_is_no_text_is_refused(tmp_path):
    root = folder(tmp_path / "films", "0.png")
    (tmp_path / "labels.csv").write_bytes(b"file,label\n\xff\xfe0.png,A\n")
    config = SourceConfig(labels_csv=str(tmp_path / "labels.csv"))
    with pytest.raises(cli.DataError, match="not a CSV table in UTF-8"):
        sources.find(root, config)


def test_flags_of_a_table_need_one():
    with pytest.raises(cli.UsageError, match="--label=TB: speaks of a table"):
        SourceConfig(label="TB").validate()
    with pytest.raises(cli.UsageError, match=r"--labels_csv=.*no such file"):
        SourceConfig(labels_csv="/nowhere.csv").validate()
