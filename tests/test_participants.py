"""Whose films: the card of a set, the flow into it, the checklist of standards."""

import dataclasses
import html
import json
import pathlib
import re
import shutil

import pytest

from cxr import cli, folds, model_card, records, set_card, set_flow
from cxr.conversion import converter, verification, workers
from cxr.evaluation import checklist, checklist_items, participants
from cxr.metrics.evaluation import Evaluation
from cxr.metrics.summary import summarise
from cxr.reporting import flow, formatting
from cxr.reporting import html as pages
from tests import fabricated
from tests.sample_images import contents, convert, make_source, read_csv
from tests.test_report import FLOW, parse

ROOT = pathlib.Path(__file__).parents[1]
CARD = {
    "name": "Tiny <b>films</b>",
    "population": "Drawn by a test",
    "ages": "not known",
    "period": None,
    "known_biases": ["Small.", "Synthetic."],
}


@pytest.fixture
def source(tmp_path):
    return make_source(tmp_path / "films")


@pytest.fixture
def card(tmp_path):
    path = tmp_path / "card.json"
    path.write_text(json.dumps(CARD))
    return path


# --- the card


def test_a_card_is_parsed_and_comes_back():
    found = set_card.parse(json.dumps(CARD))
    assert found.ages == found.period == found.licence == ""
    assert found.known_biases == ("Small.", "Synthetic.")
    assert set_card.parse(found.to_json()) == found
    assert dict(set_card.rows(found.content())) == {
        **{key.replace("_", " "): "not known" for key in set_card.KEYS},
        "name": "Tiny <b>films</b>",
        "population": "Drawn by a test",
        "known biases": "Small.\nSynthetic.",
    }


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"popluation": "x"}, "'popluation' is no key of a card; population is meant?"),
        ({"zzz": 1}, "'zzz' is no key of a card; it has name, source, population,"),
        ({"ages": 5}, "ages is 5, expected a text"),
        ({"period": "20\n18"}, "expected a text without control characters"),
        ({"known_biases": "one"}, "known_biases is 'one', expected a list"),
        ({"known_biases": [1]}, "known_biases.0 is 1, expected a text"),
        ({"name": ""}, "name is missing"),
    ],
)
def test_a_wrong_card_is_refused_by_file_key_and_value(change, said, card, capsys):
    card.write_text(json.dumps(CARD | change))
    with pytest.raises(cli.DataError) as caught:
        set_card.read(str(card))
    assert str(caught.value).startswith(f"--set_card={card}: ")
    assert said in str(caught.value)


@pytest.mark.parametrize("text", ["", "[]", '{"name": "a", "name": "b"}', "{"])
def test_what_is_no_card_is_refused(text, card):
    card.write_text(text)
    with pytest.raises(cli.DataError, match="--set_card="):
        set_card.read(str(card))


def test_a_missing_card_is_wrong_usage_and_a_packaged_one_has_a_name(
    monkeypatch, tmp_path
):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(cli.UsageError, match=r"chest_xray\.card\.json"):
        set_card.read("no.json")
    names = ("chest_xray", "chest_xray.card.json", "configs/chest_xray.card.json")
    assert len({set_card.read(name) for name in names}) == 1
    found = set_card.read("chest_xray")
    assert found.licence == "CC BY 4.0"
    assert "Guangzhou" in found.setting
    assert found.period == ""
    pathlib.Path("chest_xray").write_text(json.dumps(CARD))  # a file comes first
    assert set_card.read("chest_xray").name == CARD["name"]


def test_a_set_keeps_its_card_and_other_sets_their_bytes(source, card):
    plain = convert(source)
    told = convert(source, output_dir=str(source.parent / "told"), set_card=str(card))
    assert told.card() == set_card.parse(json.dumps(CARD))
    assert plain.card() is None
    assert told.manifest.fingerprint == plain.manifest.fingerprint
    assert told.manifest.flags == plain.manifest.flags
    before, after = contents(plain.path), contents(told.path)
    assert after.keys() - before.keys() == {"card.json"}
    assert {name for name in before if before[name] != after[name]} == {"manifest.json"}
    with workers.started(1, preload=verification.__name__) as pool:
        assert verification.verify(told.path, pool) == []
        (told.path / "card.json").write_text("{}")
        (fault,) = verification.verify(told.path, pool)
    assert fault.file == "card.json"
    with pytest.raises(cli.DataError, match=r"card\.json: missing, or changed"):
        told.card()


def test_another_card_is_another_set(source, card):
    flags = {"set_card": str(card)}
    assert convert(source, **flags).path == convert(source, **flags).path
    for other in ({}, {"set_card": "chest_xray"}):
        with pytest.raises(cli.UsageError, match="made with another --set_card"):
            convert(source, **other)
    # Written in another way it says the same.
    card.write_text(json.dumps(CARD, indent=4) + "\n")
    convert(source, **flags)
    shutil.rmtree(source.parent / "data")
    convert(source)
    with pytest.raises(cli.UsageError, match="made with another --set_card"):
        convert(source, **flags)


def test_a_wrong_card_is_refused_before_a_film_is_read(source, card, monkeypatch):
    card.write_text('{"nam": "x"}')
    monkeypatch.setattr(converter, "find_sources", lambda _: pytest.fail("read"))
    with pytest.raises(cli.DataError, match="'nam' is no key of a card; name is"):
        convert(source, set_card=str(card))


def test_the_data_report_shows_card_and_flow(source, card):
    (source / "NORMAL/broken.jpeg").write_text("not a film")
    record_set = convert(source, set_card=str(card), max_bad_fraction=0.5)
    page = (record_set.path / "report.html").read_text()
    parse(page)
    assert "Tiny &lt;b&gt;films&lt;/b&gt;" in page
    assert "25 files read, 1 kept out (1 not_an_image" in page
    assert f"<footer>{formatting.DISCLAIMER}</footer>" in page
    content = json.loads((record_set.path / "report.json").read_text())
    assert content["flow"] == set_flow.of_set(record_set).content()
    assert content["card"]["population"] == "Drawn by a test"


@pytest.mark.slow  # imports TensorFlow
def test_the_model_card_says_what_the_sets_card_says(tmp_path):
    record_set = fabricated.write_records(
        tmp_path / "data", {"train": 2, "validation": 4, "test": 4}
    )
    run = fabricated.write_run(tmp_path / "run", record_set)
    before = model_card.publish(run).read_text()
    assert "Age, sex, hospitals, machines, years: not known" in before
    text = set_card.parse(json.dumps(CARD)).to_json()
    (record_set.path / "card.json").write_text(text)
    described = fabricated._described(record_set.path / "card.json")
    manifest = dataclasses.replace(
        record_set.manifest, files={**record_set.manifest.files, "card.json": described}
    )
    (record_set.path / records.MANIFEST).write_text(manifest.to_json())
    after = model_card.publish(run).read_text()
    assert "| population | Drawn by a test |" in after
    assert "| name | Tiny &lt;b&gt;films&lt;/b&gt; |" in after
    assert "| period | not known |" in after
    assert "| known biases | Small.<br>Synthetic. |" in after
    assert after.rstrip().endswith(formatting.DISCLAIMER)


# --- the flow


def test_the_flow_adds_up(source):
    folder = source / "PNEUMONIA"
    shutil.copy(folder / "person0_virus_0.png", folder / "person0_virus_900.png")
    (source / "NORMAL/a.jpeg").write_text("no film")
    (source / "NORMAL/b.png").write_bytes(b"")
    shutil.copy(source / "NORMAL/IM-0000-0000.png", folder / "person90_virus_77.png")
    record_set = convert(source, max_bad_fraction=0.5)
    found = set_flow.of_set(record_set)
    rows = read_csv(record_set.path / "examples.csv")
    quarantine = read_csv(record_set.path / "quarantine.csv")
    assert found.kept_out == {"label_conflict": 2, "empty": 1, "not_an_image": 1}
    assert sum(found.kept_out.values()) == len(quarantine)
    assert found.read == len(rows) + len(quarantine)
    # Every file that the conversion looked at, as the manifest counts its sources.
    assert found.read == record_set.manifest.sources["files"] == 28
    assert found.films == len(rows) == sum(s["films"] for s in found.splits.values())
    assert found.apart == 0
    assert found.patients == len({row["patient_id"] for row in rows})
    assert found.patients == sum(s["patients"] for s in found.splits.values())
    assert (found.copies, found.copied) == (1, 1)
    assert found.without_patient == 0


def test_rows_of_a_table_are_no_files(source):
    table = source.parent / "labels.csv"
    lines = ["path,label", "missing.png,NORMAL"]
    for path in sorted(source.rglob("*.png")):
        name = path.relative_to(source).as_posix()
        lines += [f"{name},{path.parent.name}"] * (2 if len(lines) == 2 else 1)
    table.write_text("\n".join(lines) + "\n")
    record_set = convert(source, labels_csv=str(table))
    reasons = {row["reason"] for row in read_csv(record_set.path / "quarantine.csv")}
    assert reasons == {"no_file", "duplicate_row"}
    found = set_flow.of_set(record_set)
    assert (found.read, found.films, found.kept_out) == (24, 24, {})
    assert found.table_rows == 2


def test_what_was_excluded_is_named(source):
    found = set_flow.of_set(convert(source, exclude=("*virus_1*",)))
    assert found.exclude == ("*virus_1*",)
    assert found.films == found.read == 21


def test_of_a_fold_it_says_what_is_no_part_of_it(source):
    root = make_source(source.parent / "split", side="train")
    make_source(root, side="test")
    for path in (root / "test").rglob("*.png"):  # of other patients
        name = path.name.replace("person", "person9").replace("IM-0", "IM-9")
        path.rename(path.with_name(name))
    folded = convert(root, folds=3)
    assert set_flow.of_set(folded).apart == 0
    fold = folds.fold(folded, 1)
    found = set_flow.of_set(fold)
    held = sum(split["films"] for split in found.splits.values())
    assert found.films == len(folded.examples())
    assert found.films == held + found.apart
    assert found.apart == 24  # the test split that the source had
    one = set_flow.of_set(folds.tested(folded, [1]))
    assert list(one.splits) == ["test"]
    assert one.apart == found.films - one.splits["test"]["films"] > 0


def test_an_edited_quarantine_is_not_counted(source):
    record_set = convert(source)
    (record_set.path / "quarantine.csv").write_text("path,reason,detail\na,empty,\n")
    found = set_flow.of_set(record_set)
    assert (found.read, found.kept_out, found.films) == (None, None, 24)
    words = flow.in_words(found.content())
    assert words.startswith("What was kept out of the set is no longer known.")
    parse(flow.figure(found.content()))


def test_the_diagram_and_its_words_hold_the_numbers():
    judged = {"split": "test", "films": 50, "patients": 40}
    figure = flow.figure(FLOW, judged)
    parser = parse(figure)
    shown = " ".join(" ".join(parser.text).split())
    words = flow.in_words(FLOW, judged)
    assert f'role="img" aria-label="{html.escape(words)}"' in figure
    for text in (shown, words):
        assert "207 files" in text
        assert "7 kept out" in text
        assert "5 corrupt: the image's data are damaged" in text
        assert "2 a code of <b>tomorrow" in text
        assert "200 films of 150 patients in the set" in text
        assert "3 films of them byte-identical to one of 2 others" in text
        assert "30 films" in text and "in none of these" in text
    assert "train: 120 films of 90 patients" in shown
    assert "test: 50 films of 40 patients" in shown
    assert "50 films evaluated of 40 patients, split test" in shown
    assert "Of 20 films the patient is not known" in shown
    assert "4 rows of the table of labels named no film, or one again." in shown
    assert "Not counted: files like *_<old>*." in shown
    assert "<b>" not in figure


# --- the checklist


def summary_of(table, **changes):
    frozen = {"value": 0.5, "rule": "youden", "chosen_on": "validation"}
    evaluation = Evaluation(table, "test", table.class_names[-1], frozen, draws=50)
    rows = fabricated.example_rows(table)
    content = set_card.parse(json.dumps(CARD)).content()
    told = {"participants": {"flow": FLOW, "card": content}}
    return summarise(evaluation, rows=rows) | told | changes


@pytest.mark.parametrize("classes", [2, 3])
def test_every_item_is_answered_or_says_who_must(classes):
    summary = summary_of(fabricated.clustered(1, classes=classes))
    origins = {"data": "tiny <b>1.0.0</b>", "model": "cnn"}
    page = fabricated.page(summary, {}, origins)
    anchors = pages.anchors(page)
    items = checklist.render(summary, origins, anchors)
    parser = parse(items)
    assert "<b>" not in items
    assert f"<footer>{formatting.DISCLAIMER}</footer>" in items
    for outside in ("http:", "https:", "url(", "<script", "<link", "<img"):
        assert outside not in items
    targets = {link.removeprefix("report.html") for link in parser.links}
    assert {t.removeprefix("#") for t in targets - {""}} <= anchors
    assert "report.html" in parser.links
    rows = re.findall("<tr><td.*?</tr>", items)
    assert len(rows) == len(checklist_items.ITEMS) >= 40
    answers = [re.sub("<.*?>", "", row.rsplit("<td", 1)[1]) for row in rows]
    assert all(len(answer) > 12 for answer in answers)
    unanswered = [a for a in answers if "not answerable by software: " in a]
    missing = [a for a in answers if "not part of this evaluation: " in a]
    # Without pictures and validation: no film, curve, overlay, shift, other point.
    assert len(missing) == 5
    done = len(answers) - len(unanswered) - len(missing)
    assert f"{done} of {len(answers)} items are answered" in items
    asked = {standard for item in checklist_items.ITEMS for standard in item.standards}
    assert asked == {"STARD-AI", "CLAIM", "TRIPOD+AI"}


def test_its_answers_are_the_numbers_of_the_evaluation():
    summary = summary_of(fabricated.clustered(1))
    origins = {"test_reads": "The test split has been read twice."}
    page = checklist.render(summary, origins, {"participants", "threshold"})
    text = html.unescape(re.sub("<.*?>", " ", page))
    area = summary["metrics"]["roc_auc"]
    low, high = area["ci95"]
    assert f"ROC AUC {area['value']:.3f} (95 %: {low:.3f} to {high:.3f})" in text
    assert "p >= 0.500, chosen on validation by youden" in text
    assert "207 files read, 7 kept out by reason, 200 films in the set" in text
    assert "The test split has been read twice." in text
    assert "population: Drawn by a test (the set's card)" in text
    assert "known biases: Small. Synthetic. (the set's card)" in text
    assert "not answerable by software: period: not known, as the set's card" in text
    (normal, ill), (missed, found) = summary["confusion_matrix"]
    text = " ".join(text.split())
    assert f"NORMAL films {normal} called NORMAL, {ill} called PNEUMONIA" in text
    assert f"PNEUMONIA films {missed} called NORMAL, {found} called PNEUMONIA" in text


def test_of_another_set_it_promises_no_separate_patients():
    summary = summary_of(fabricated.clustered(1))
    promise = "no patient and no byte-identical film stands on two sides"
    met = {"films": 3, "patients": 0, "checked": True}
    for origins in ({}, {"other_data": "External validation: of another hospital."}):
        asked = {**summary, "met_in_training": met if origins else None}
        text = html.unescape(checklist.render(asked, origins, {"participants"}))
        assert (promise in text) == (not origins)
        assert ("3 films of the training's, byte for byte" in text) == bool(origins)
        assert ("of another hospital." in text) == bool(origins)


def test_without_a_card_nobody_is_made_up():
    summary = summary_of(fabricated.clustered(1))
    summary["participants"]["card"] = None
    text = html.unescape(checklist.render(summary, {}, {"participants"}))
    assert text.count("the set has no card; whoever made it knows (--set_card)") == 9
    section = participants.section(summary)
    assert "the set was converted without a card" in section


@pytest.mark.slow  # evaluates a run
def test_an_evaluation_tells_whose_films_and_groups_it_judged(tmp_path, monkeypatch):
    from cxr import evaluate
    from cxr.evaluation import evaluator

    record_set = fabricated.write_records(
        tmp_path / "data", {"train": 6, "validation": 30, "test": 60}
    )
    path, rows = record_set.path, record_set.examples()
    bands = ["0-9", "10-19", "", "90+"]
    with open(path / "attributes.csv", "w") as file:
        file.write("filename,age_band,sex,view,device,modality\n")
        for index, row in enumerate(rows):
            band = bands[index // 2 % 2 if index % 20 else 3]
            file.write(f"{row['filename']},{band},{'MF'[index // 2 % 2]},,Acme,\n")
    described = fabricated._described(path / "attributes.csv")
    manifest = dataclasses.replace(
        record_set.manifest,
        files={**record_set.manifest.files, "attributes.csv": described},
    )
    (path / records.MANIFEST).write_text(manifest.to_json())
    run = fabricated.write_run(tmp_path / "run", records.load(path))
    config = evaluate.EvaluateConfig(workdir=(str(run.workdir),), draws=100, explain=0)
    summary = evaluate.evaluate(config)
    folder = run.workdir / "evaluation-test"
    groups = summary["subgroups"]
    assert set(groups["sex"]) == {"M", "F"}
    assert set(groups["age_band"]) == {"0-9", "10-19"}
    assert groups["sex"]["M"]["n"] == groups["sex"]["M"]["n_patients"] == 30
    assert set(summary["subgroup_notes"]["too_few"]["age_band"]["groups"]) == {"90+"}
    recorded = summary["subgroup_notes"]["recorded"]
    assert recorded == {"age": 60, "sex": 60, "view": 0, "device": 60}
    assert summary["participants"]["flow"]["splits"]["test"]["films"] == summary["n"]
    written = json.loads((folder / "metrics.json").read_text())
    assert written["participants"] == summary["participants"]
    page = (folder / "report.html").read_text()
    parser = parse(page)
    assert "checklist.html" in parser.links
    items = parse((folder / "checklist.html").read_text())
    places = {link.partition("#")[2] for link in items.links} - {""}
    assert places <= parser.ids
    assert "60 films evaluated" in page
    # What was edited since is refused before anything is predicted.
    (path / "attributes.csv").write_text("filename,age_band\n")
    monkeypatch.setattr(evaluator, "load_predictor", lambda _: pytest.fail("late"))
    with pytest.raises(cli.DataError, match=r"attributes\.csv: missing, or changed"):
        evaluate.evaluate(config)


def test_no_page_is_without_the_disclaimer():
    page = pages.page("t", ["<p>x</p>"])
    assert page.count(formatting.DISCLAIMER) == 1
    assert "<footer>" in page


def test_a_table_tells_the_device(source):
    table = source.parent / "labels.csv"
    lines = ["path,label,age,sex,view,machine"]
    for path in sorted(source.rglob("*.png")):
        name = path.relative_to(source).as_posix()
        lines.append(f"{name},{path.parent.name},47,f,AP, Acme DR ")
    table.write_text("\n".join(lines) + "\n")
    plain = convert(source, labels_csv=str(table))
    told = convert(
        source,
        labels_csv=str(table),
        csv_device_column="machine",
        output_dir=str(source.parent / "told"),
    )
    expected = {"age_band": "40-49", "sex": "F", "view": "AP", "device": ""}
    assert expected.items() <= plain.described("test")[0].items()
    expected["device"] = "Acme DR"
    assert all(expected.items() <= row.items() for row in told.described())
    columns = ["filename", "age_band", "sex", "view", "device"]
    assert list(read_csv(told.path / "attributes.csv")[0])[:5] == columns


@pytest.mark.slow  # imports TensorFlow
def test_the_checklist_of_an_earlier_model_is_marked_stale(tmp_path):
    from cxr.training import stale

    run = fabricated.write_run(
        tmp_path / "run",
        fabricated.write_records(tmp_path / "data", {"train": 2, "validation": 4}),
    )
    folder = run.workdir / "evaluation-test"
    folder.mkdir()
    (folder / "predictions.json").write_text('{"model_sha256": "before"}')
    (folder / "metrics.json").write_text("{}")
    (folder / "checklist.html").write_text(pages.page("t", []))
    assert stale.mark(run) == [folder]
    assert "Stale: these numbers" in (folder / "checklist.html").read_text()
