"""Films that pictures show can be found: by number, file, patient and margin."""

import numpy as np

from cxr.evaluation import film_table
from cxr.metrics.evaluation import Evaluation
from tests import fabricated

FROZEN = {"value": 0.4, "rule": "youden", "chosen_on": "validation"}


def ask(classes=2):
    table = fabricated.clustered(3, separation=1.0, classes=classes)
    threshold = FROZEN if classes == 2 else {**FROZEN, "value": None}
    return Evaluation(table, "test", table.class_names[-1], threshold, draws=20)


def test_the_wrong_films_are_all_there_the_surest_first():
    evaluation = ask()
    table, wrong = evaluation.predictions, film_table.wrong(evaluation)
    said = table.probabilities[:, 1] >= 0.4
    assert set(wrong.tolist()) == set(np.flatnonzero(said != (table.labels == 1)))
    true = table.probabilities[wrong, table.labels[wrong]]
    assert len(true) > 5 and np.all(np.diff(true) >= 0)


def test_a_row_leads_to_its_film(tmp_path):
    evaluation = ask()
    table = evaluation.predictions
    film = tmp_path / table.filenames[7]
    film.parent.mkdir(parents=True)
    film.write_bytes(b"film")
    statuses = ["ok"] * len(table.labels)
    statuses[7] = "warning: inverted"
    here, gone = film_table.rows(
        evaluation, [7, 8], statuses=statuses, source_dir=str(tmp_path)
    )
    assert tuple(here) == film_table.COLUMNS
    assert here["number"] == 8  # its row in predictions.csv, counted from 1
    assert (here["path"], here["patient_id"]) == (
        table.filenames[7],
        table.patient_ids[7],
    )
    assert here["probability"] == table.probabilities[7, 1]
    assert here["margin"] == table.probabilities[7, 1] - 0.4
    assert here["status"] == "warning: inverted"
    assert here["source"] == str(film)
    assert gone["source"] == "" and gone["status"] == "ok"


def test_no_name_leads_out_of_the_folder(tmp_path):
    secret = tmp_path / "secret"
    secret.write_bytes(b"x")
    inside = tmp_path / "films"
    inside.mkdir()
    assert film_table._source(str(inside), "../secret") == ""
    assert film_table._source(str(inside), str(secret)) == ""


def test_of_more_classes_the_margin_is_to_the_true_class():
    evaluation = ask(classes=3)
    for index in film_table.wrong(evaluation)[:3]:
        (row,) = film_table.rows(evaluation, [index])
        p = evaluation.predictions.probabilities[index]
        names = evaluation.class_names
        assert row["probability"] == p.max() == p[names.index(row["prediction"])]
        assert row["margin"] == p.max() - p[names.index(row["label"])] > 0
