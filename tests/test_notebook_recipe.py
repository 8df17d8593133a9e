"""The peer for time to quality runs, on films of its own."""

import json

import numpy as np
import pytest
from PIL import Image

from benchmarks import notebook_recipe
from cxr.conversion import converter


@pytest.mark.slow
def test_the_recipe_trains_on_the_split_of_a_set(tmp_path, monkeypatch):
    random = np.random.default_rng(0)
    for label, low in (("NORMAL", 0), ("PNEUMONIA", 100)):
        folder = tmp_path / "films" / label
        folder.mkdir(parents=True)
        for number in range(8):
            film = random.integers(low, low + 100, (40, 40), np.uint8)
            Image.fromarray(film).save(folder / f"{number}.png")
    flags = {"input_dir": str(tmp_path / "films"), "output_dir": str(tmp_path / "data")}
    converter.convert(
        converter.ConversionConfig(**flags, image_size=32), log=lambda line: None
    )
    # The smallest side that five rounds of convolution and pooling leave a pixel of.
    monkeypatch.setattr(notebook_recipe, "_SIZE", 94)
    code = notebook_recipe.main(
        [
            "notebook_recipe",
            f"--input_dir={tmp_path}/films",
            f"--data_dir={tmp_path}/data",
            f"--output_dir={tmp_path}/out",
            "--epochs=2",
        ]
    )
    assert code == 0
    found = json.loads((tmp_path / "out" / "recipe.json").read_text())
    assert [row["epoch"] for row in found["epochs"]] == [1, 2]
    assert 0 < found["epochs"][0]["seconds"] < found["epochs"][1]["seconds"]
    assert all(0 <= row["test_roc_auc"] <= 1 for row in found["epochs"])
