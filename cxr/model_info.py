"""Parses what model.json says of a finished run's model."""

import dataclasses
import json
import math

from cxr import documents
from cxr.config import MODELS
from cxr.metrics import thresholds

SCHEMA = 1
_MAX_SIDE = 4096  # pixels; the converter stores no more
# Above every probability, where a rule calls nothing positive.
_MAX_THRESHOLD = math.nextafter(1.0, 2.0)


@dataclasses.dataclass(frozen=True)
class Threshold:
    """Positive when p >= `value`; the `rule` that chose it, and on which split."""

    value: float
    rule: str
    chosen_on: str

    @classmethod
    def parse(cls, fields: documents.Fields) -> "Threshold":
        """Parses a threshold; ValueError names what is wrong."""
        rule = fields.text("rule")
        thresholds.parse_rule(rule)
        value = fields.number("value", 0, _MAX_THRESHOLD)
        return cls(value, rule, fields.text("chosen_on"))


@dataclasses.dataclass(frozen=True)
class GuardInfo:
    """How often the input guard, which is in the model file, is wrong.

    Attributes:
      false_alarms: share of the validation films that it calls unlike training's.
      films: how many validation films there were.
    """

    false_alarms: float
    films: int

    @classmethod
    def parse(cls, fields: documents.Fields) -> "GuardInfo":
        """Parses it; ValueError names what is wrong."""
        return cls(fields.number("false_alarms", 0, 1), fields.integer("films", 1))


@dataclasses.dataclass(frozen=True)
class DataIdentity:
    """Which set a run was trained on: where it was, its name, what it held."""

    data_dir: str
    dataset: str
    version: str
    fingerprint: str

    @classmethod
    def parse(cls, fields: documents.Fields) -> "DataIdentity":
        """Parses an identity; ValueError names what is wrong."""
        return cls(
            data_dir=fields.text("data_dir"),
            dataset=fields.file_name("dataset"),
            version=fields.file_name("version"),
            fingerprint=fields.sha256("fingerprint"),
        )


@dataclasses.dataclass(frozen=True)
class ModelInfo:
    """What model.json holds.

    Attributes:
      model: one of `config.MODELS`.
      class_names: column i of the probabilities is `class_names[i]`.
      positive_class: the class whose probability the threshold speaks of.
      head: `softmax`, or `sigmoid` of two classes.
      stored_image_size: height = width in pixels at which images are decoded.
      image_size: height = width in pixels that the model takes.
      threshold: None where more than two classes are decided by argmax.
      temperature: what calibrates the logits on validation; None if unknown.
      data: the set that it was trained on.
      model_file: name of the Keras model file in the run folder.
      model_sha256: of that file.
      final_weights_sha256: over the last epoch's weights in order.
      best_epoch: epoch of the published weights, counted from 1.
      num_parameters: of the model.
      flags: of the training, as in run.flags; None in runs of before.
      trained_after_test: readings of a test split before training went on.
      input_guard: None where training had too few films for one, or in runs of before.
    """

    model: str
    class_names: tuple[str, ...]
    positive_class: str
    head: str
    stored_image_size: int
    image_size: int
    threshold: Threshold | None
    temperature: float | None
    data: DataIdentity
    model_file: str
    model_sha256: str
    final_weights_sha256: str
    best_epoch: int
    num_parameters: int
    flags: tuple[str, ...] | None = None
    trained_after_test: int = 0
    input_guard: GuardInfo | None = None

    def to_json(self) -> str:
        """Returns model.json's text."""
        document = {"schema": SCHEMA, **dataclasses.asdict(self)}
        return json.dumps(document, indent=2) + "\n"

    @classmethod
    def parse(cls, fields: documents.Fields) -> "ModelInfo":
        """Parses model.json's content.

        Raises:
          ValueError: naming the field that is missing, wrong, or contradicts another.
        """
        fields.integer("schema", SCHEMA, SCHEMA)
        names = fields.class_names("class_names")
        two = len(names) == 2
        stored = fields.integer("stored_image_size", 1, _MAX_SIDE)
        threshold = None
        if two:
            threshold = Threshold.parse(fields.section("threshold"))
        elif fields.has("threshold"):
            raise ValueError(f"threshold: {len(names)} classes are decided by argmax")
        return cls(
            model=fields.text("model", choices=MODELS),
            class_names=names,
            positive_class=fields.text("positive_class", choices=names),
            head=fields.text("head", choices=("softmax", "sigmoid")[: 1 + two]),
            stored_image_size=stored,
            image_size=fields.integer("image_size", 1, stored),
            threshold=threshold,
            temperature=fields.number("temperature", 0, 1e6)
            if fields.has("temperature")
            else None,
            data=DataIdentity.parse(fields.section("data")),
            model_file=fields.file_name("model_file"),
            model_sha256=fields.sha256("model_sha256"),
            final_weights_sha256=fields.sha256("final_weights_sha256"),
            best_epoch=fields.integer("best_epoch", 1),
            num_parameters=fields.integer("num_parameters", 1),
            flags=fields.texts("flags") if fields.has("flags") else None,
            trained_after_test=fields.integer("trained_after_test", 0)
            if fields.has("trained_after_test")
            else 0,
            input_guard=GuardInfo.parse(fields.section("input_guard"))
            if fields.has("input_guard")
            else None,
        )
