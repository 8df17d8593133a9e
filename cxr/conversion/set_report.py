"""Reports what a conversion found: report.json and a self-contained report.html."""

import base64
import collections
import json
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np

from cxr import images, reasons, records, set_flow
from cxr.conversion import metadata, planning, spool, trivial_scores
from cxr.conversion.metadata import Outcome
from cxr.conversion.splitting import Example
from cxr.metrics import classification
from cxr.reporting import card, flow, html

_SHEET_IMAGES = 24  # a class
_SHEET_COLUMNS = 8
_THUMBNAIL = 112  # pixels
_MAX_ROWS = 200  # of the quarantine shown in the page; quarantine.csv has all
_LOOK_ALIKE = (
    " These pairs, the closest hundred at most, differ in bytes, yet hardly in a hash "
    "of 240 bits, perhaps mirrored or turned: look at them."
)
SHORTCUT_AUC = 0.8  # a property that ranks so well, either way, gives the class away
_CALLED = {"file bytes": "file bytes, the size of a film's file"}
_INVERTED = -0.2  # correlation with the usual film
_TURNED = 0.1  # by which another way up correlates better


def numbers(outcome: Outcome, seconds: float) -> dict[str, Any]:
    """Returns the report's content, ready for JSON.

    Args:
      outcome: the images and where they went.
      seconds: wall time of the conversion so far.
    """
    manifest, examples = outcome.manifest, list(outcome.examples)
    originals = [e.duplicate_of for _, e in examples if e.duplicate_of]
    return {
        "name": manifest.name,
        "version": manifest.version,
        "split_policy": outcome.plan.policy,
        "films": len(examples),
        "splits": [_split(split) for split in manifest.splits.values()],
        "subtypes": _subtypes(examples),
        "source": [_class(label, mine) for label, mine in _by_class(outcome).items()],
        "shortcuts": (shortcuts := _shortcuts(outcome, manifest.class_names)),
        "separability": separability(shortcuts),
        "trivial_baseline": _trivial_baseline(outcome),
        "files_without_patient": sum(e.patient_id == e.image.path for _, e in examples),
        "patients_on_two_sides": _on_two_sides(examples),
        "duplicates": {"groups": len(set(originals)), "surplus": len(originals)},
        "near_duplicates_across_splits": _near(outcome.plan),
        "burned_in": [i.path for i in outcome.converted if i.burned_in],
        "quarantine": dict(collections.Counter(r.reason for r in outcome.rejected)),
        "flow": _flow(outcome).content(),
        "card": outcome.card.content() if outcome.card else None,
        "bytes_in": sum(image.source_bytes for image in outcome.converted),
        "bytes_out": sum(split.num_bytes for split in manifest.splits.values()),
        "seconds": round(seconds, 2),
        "films_per_second": round(len(outcome.converted) / max(seconds, 1e-9), 1),
    }


def to_json(content: dict[str, Any]) -> str:
    """Returns report.json's text."""
    return json.dumps(content, indent=1) + "\n"


def to_html(content: dict[str, Any], outcome: Outcome) -> str:
    """Returns report.html's text: one file, no scripts, nothing fetched."""
    title = f"{content['name']} {content['version']}"
    copies = content["duplicates"]
    known = content["files_without_patient"] < content["films"]
    apart = "film stands on two sides; no patient is known"
    if known:
        apart = "film and no known patient stands on two sides"
    body = [
        f"<h1>{html.escape(title)}</h1>",
        html.paragraph(
            f"{content['films']:,} films, split policy {content['split_policy']}. No "
            f"identical {apart}. "
            f"{content['bytes_in'] / 1e6:.1f} MB read and "
            f"{content['bytes_out'] / 1e6:.1f} MB written in {content['seconds']} s, "
            f"{content['films_per_second']} images/s.",
            kind="lead",
        ),
        html.notes([("warn", text) for text in _warnings(content)]),
        html.section(
            "From files to splits", [flow.figure(content["flow"])], anchor="flow"
        ),
        html.section(
            "Population and reference standard",
            [card.table(content["card"])],
            anchor="card",
        ),
        _section("Splits", content["splits"]),
        _section("Subtypes", content["subtypes"]),
        _section("Source films by class", content["source"]),
        _giveaways(content["separability"]),
        html.paragraph(_trivial_line(content["trivial_baseline"])),
        _section(
            "Look alike across splits",
            content["near_duplicates_across_splits"],
            _copies(copies)
            + (_LOOK_ALIKE if content["near_duplicates_across_splits"] else ""),
        ),
        *_burned_in(content),
        _section(
            "Kept out",
            [
                {"reason": code, "files": count, "meaning": reasons.MEANINGS[code]}
                for code, count in content["quarantine"].items()
            ],
        ),
        _section(
            f"Files kept out (at most {_MAX_ROWS})",
            [row._asdict() for row in outcome.rejected[:_MAX_ROWS]],
        ),
        *(
            _sheet(label, members, outcome.manifest)
            for label, members in _by_class(outcome).items()
        ),
    ]
    return html.page(title, body)


def _giveaways(separable: list[dict[str, Any]]) -> str:
    """Returns how well single properties tell the classes apart, a bar each."""
    # Of two classes, one told from the other is the other told from the one.
    shown = separable[-1:] if len(separable) == 2 else separable
    names = [name for name in separable[0] if name != "class"]
    header = ("property alone", *(f"{row['class']} against the rest" for row in shown))
    parts = [
        html.paragraph(
            "How well a property of the file, or of its brightness alone, tells a "
            "class from the rest: area under the ROC curve a, or 1 - a where smaller "
            "values speak for it; 0.5 tells nothing, 1 all. Films are squashed to a "
            "square, so that a network never sees their size, aspect or bytes; it sees "
            "what goes with them, such as sharpness. Inverted and turned: against the "
            "usual film of this set."
        ),
        html.bars(
            header,
            [(name, [row[name] for row in shown]) for name in names],
            low=0.5,
            high=1.0,
            alarm=SHORTCUT_AUC,
            said="gives the class away",
        ),
    ]
    title = "What gives the class away without looking"
    return html.section(title, parts, anchor=title.lower().replace(" ", "-"))


def _flow(outcome: Outcome) -> set_flow.Flow:
    rejected = [(row.path, row.reason) for row in outcome.rejected]
    rows = metadata.example_rows(outcome)
    total = sum(split.num_examples for split in outcome.manifest.splits.values())
    return set_flow.count(outcome.manifest, rows, rejected, total)


def _burned_in(content: dict[str, Any]) -> list[str]:
    """Returns the section of films with annotations, none where there are none."""
    rows = [{"film": path} for path in content["burned_in"][:_MAX_ROWS]]
    return [_section("Annotations burned in, as the header says", rows)] if rows else []


def _copies(copies: dict[str, int]) -> str:
    if not copies["groups"]:
        return "No film is kept twice."
    return (
        f"Groups of byte-identical films: {copies['groups']}, with "
        f"{copies['surplus']} surplus in all; they are kept, each group on one side."
    )


def _split(split: records.Split) -> dict[str, Any]:
    return {
        "split": split.name,
        "films": split.num_examples,
        **split.class_counts,
        "patients": split.num_patients,
        "shards": len(split.shards),
        "bytes": split.num_bytes,
    }


def _subtypes(examples: list[tuple[str, Example]]) -> list[dict[str, Any]]:
    counts = collections.Counter(
        (example.label, example.subtype, split)
        for split, example in examples
        if example.subtype
    )
    kinds = sorted({(label, subtype) for label, subtype, _ in counts})
    return [
        {"class": label, "subtype": subtype}
        | {split: counts[label, subtype, split] for split in records.SPLITS}
        for label, subtype in kinds
    ]


def _by_class(outcome: Outcome) -> dict[str, list[spool.Converted]]:
    """Returns the images of each class in the order of their records."""
    members: dict[str, list[spool.Converted]] = {
        label: [] for label in outcome.manifest.class_names
    }
    for _, example in outcome.examples:
        members[example.label].append(example.image)
    return members


def _class(label: str, members: list[spool.Converted]) -> dict[str, Any]:
    modes = collections.Counter(f"{image.format} {image.mode}" for image in members)
    kinds = ", ".join(f"{n} {mode}" for mode, n in sorted(modes.items()))
    row: dict[str, Any] = {"class": label, "kinds": kinds, "films": len(members)}
    for name, values in _properties(members).items():
        digits = 2 if name == "aspect" else 0
        low, middle, high = np.quantile(values, (0, 0.5, 1))
        row[name] = f"{middle:.{digits}f} ({low:.{digits}f} to {high:.{digits}f})"
    return row


def _properties(converted: list[spool.Converted]) -> dict[str, np.ndarray]:
    width = np.array([image.width for image in converted], float)
    height = np.array([image.height for image in converted], float)
    return {
        "width": width,
        "height": height,
        "aspect": width / height,
        "file bytes": np.array([image.source_bytes for image in converted], float),
    }


def _shortcuts(outcome: Outcome, class_names: tuple[str, ...]) -> list[dict[str, Any]]:
    order = _record_order(outcome)
    converted = [outcome.converted[index] for index in order]
    properties = _properties(converted)
    properties["colour"] = np.array(
        [image.mode not in ("L", "I;16", "1") for image in converted], float
    )
    properties |= _looks(outcome.looks[order])
    labels = np.array([example.label for _, example in outcome.examples])
    return [
        {"class": label}
        | {
            name: round(_auc(values, labels == label), 3)
            for name, values in properties.items()
        }
        for label in class_names
    ]


def separability(shortcuts: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Returns max(a, 1 - a) of every area: how well a property tells, either way.

    Args:
      shortcuts: class -> area under the ROC curve of each property, class positive.
    """
    return [
        {
            name: value if name == "class" else round(max(value, 1 - value), 3)
            for name, value in row.items()
        }
        for row in shortcuts
    ]


def _record_order(outcome: Outcome) -> list[int]:
    """Returns where each example stands in what was converted."""
    at = {image.path: index for index, image in enumerate(outcome.converted)}
    return [at[example.image.path] for _, example in outcome.examples]


def _trivial_baseline(outcome: Outcome) -> dict[str, float] | None:
    examples = [example for _, example in outcome.examples]
    statistics = outcome.statistics[_record_order(outcome)]
    return trivial_scores.summarise(examples, statistics, seed=0)


def _trivial_line(found: dict[str, float] | None) -> str:
    if found is None:
        return ""
    return (
        "Brightness and sharpness together, nine numbers of a film in a logistic "
        "regression cross-validated by patient: area under the ROC curve "
        f"{found['roc_auc']:.3f}, accuracy {found['accuracy']:.3f}. A model that looks "
        "at lungs must do better, above all on films of another source."
    )


def _looks(looks: np.ndarray) -> dict[str, np.ndarray]:
    """Returns what 16 x 16 cells tell without their content, float [N] each.

    Args:
      looks: uint8 [N, 16, 16].
    """
    cells = looks.reshape(len(looks), -1).astype(np.float32)
    brightness, contrast = cells.mean(axis=1), cells.std(axis=1)
    unit = (looks - brightness[:, None, None]) / np.maximum(contrast, 1)[:, None, None]
    usual = np.median(unit, axis=0)
    usual /= max(float(usual.std()), 1e-6)
    ways = [np.rot90(usual, turn) for turn in range(4)]
    upright, *turned = (np.einsum("nij,ij->n", unit, way) / usual.size for way in ways)
    return {
        "brightness": brightness,
        "contrast": contrast,
        "inverted": (upright < _INVERTED).astype(float),
        "turned": (np.max(turned, axis=0) > upright + _TURNED).astype(float),
    }


def _auc(values: np.ndarray, positive: np.ndarray) -> float:
    """Area under the ROC curve; 0.5 where a side is empty."""
    areas, _ = classification.ranking_areas(positive, values, np.ones((1, len(values))))
    return 0.5 if np.isnan(areas[0]) else float(areas[0])


def _on_two_sides(examples: list[tuple[str, Example]]) -> int:
    sides = {(example.patient_id, split) for split, example in examples}
    return len(sides) - len({patient for patient, _ in sides})


def _near(plan: planning.Plan) -> list[dict[str, Any]]:
    return [
        {
            "film": pair.path,
            "in": pair.split,
            "other film": pair.other,
            "other in": pair.other_split,
            "bits apart": pair.bits,
            "turned": "yes" if pair.turned else "no",
        }
        for pair in plan.apart
    ]


def _warnings(content: dict[str, Any]) -> Iterable[str]:
    if content["files_without_patient"]:
        yield (
            f"{content['files_without_patient']} file names tell no patient. Each such "
            "film counts as a patient of its own, so films of one patient may stand on "
            "two sides, and test results may be too good. Give a --patient_pattern."
        )
    yield from shortcut_warnings(content)


def shortcut_warnings(content: dict[str, Any]) -> Iterator[str]:
    """Yields a line for each property that gives the class away.

    Args:
      content: of `numbers`.
    """
    found = content["trivial_baseline"]
    if found and found["roc_auc"] >= SHORTCUT_AUC:
        yield (
            "Nine numbers of brightness and sharpness tell the classes apart (area "
            f"under the ROC curve {found['roc_auc']:.3f}, patients apart): high test "
            "figures are no proof that a network looks at lungs; see "
            "--split_policy=counter."
        )
    rows = content["separability"]
    for row in rows[1:] if len(rows) == 2 else rows:  # two classes mirror each other
        for name, value in row.items():
            if name != "class" and value >= SHORTCUT_AUC:
                yield (
                    f"{row['class']} is told from the rest by one property alone, "
                    f"{_CALLED.get(name, name)} (area under the ROC curve {value:.3f}):"
                    " a network may learn what goes with it instead of the disease."
                )


def _thumbnail(stored: bytes, manifest: records.Manifest) -> np.ndarray:
    size = manifest.image_size
    side = min(size, _THUMBNAIL)
    if manifest.encoding != "raw":
        return images.to_grey(stored, side)
    grey = np.frombuffer(stored, np.uint8).reshape(size, size)
    return images.area_resize(grey, side)


def _grid(thumbnails: list[np.ndarray]) -> np.ndarray:
    side = len(thumbnails[0])
    rows = -(-len(thumbnails) // _SHEET_COLUMNS)
    columns = min(len(thumbnails), _SHEET_COLUMNS)
    grid = np.zeros((rows * side, columns * side), np.uint8)
    for index, thumbnail in enumerate(thumbnails):
        y, x = divmod(index, _SHEET_COLUMNS)
        grid[y * side : (y + 1) * side, x * side : (x + 1) * side] = thumbnail
    return grid


def _sheet(
    label: str, members: list[spool.Converted], manifest: records.Manifest
) -> str:
    """Stored images spread evenly over a class, as one JPEG."""
    members = sorted(members, key=lambda image: image.path)
    count = min(len(members), _SHEET_IMAGES)
    chosen = [members[turn * len(members) // count] for turn in range(count)]
    thumbnails = [_thumbnail(spool.read_stored(image), manifest) for image in chosen]
    data = images.encode(_grid(thumbnails), "jpeg", quality=85)
    source = base64.b64encode(data).decode()
    alt = html.escape(f"stored films of {label}")
    figure = f'<figure><img alt="{alt}" src="data:image/jpeg;base64,{source}"></figure>'
    return html.section(label, [figure], anchor=f"sheet-{label}")


def _section(title: str, rows: list[dict[str, Any]], text: str = "") -> str:
    """A titled table, or `none` where it would be empty."""
    parts = [html.paragraph(text)] if text else []
    if rows:
        values = [list(row.values()) for row in rows]
        texts = [i for i, value in enumerate(values[0]) if isinstance(value, str)]
        parts.append(html.table(list(rows[0]), values, text_columns=texts))
    else:
        parts.append(html.paragraph("none", kind="quiet"))
    return html.section(title, parts, anchor=title.lower().replace(" ", "-"))
