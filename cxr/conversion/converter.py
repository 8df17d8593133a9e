"""Converts a folder of images to a record set: plan, execute, manifest last.

`convert` lists the sources, converts them in chunks (`spool`), plans splits and
shards (`planning`) and writes each shard apart. Every file is published whole under
its final name, `manifest.json` after all others; until then a hidden folder in the
set holds what a later run can take over. The bytes of a set depend on the sources
and the flags only.
"""

import collections
import contextlib
import dataclasses
import itertools
import pathlib
import re
import shutil
import time
from collections.abc import Callable, Iterator
from typing import Any

import cxr
from cxr import (
    class_names,
    cli,
    console,
    files,
    images,
    locks,
    reasons,
    records,
    set_card,
)
from cxr.conversion import (
    beam_runner,
    existing_set,
    metadata,
    near_duplicates,
    patients,
    planning,
    set_report,
    shards,
    sources,
    spool,
    workers,
)
from cxr.reasons import Rejected
from cxr.reporting.formatting import counted
from cxr.storage import films, places, sets

REPORT = "report.html"
# Where images lie, where the set goes and how many work shapes no byte of it.
# What a table or a card says counts by its content.
_SHAPELESS = frozenset(
    ("input_dir", "output_dir", "workers", "max_bad_fraction", "labels_csv")
    + ("runner", "beam_options")
    + ("patient_key_file", "set_card")
)
# Flags that every manifest lists. Those that came later are listed only where they
# are not their default, so that a set's manifest does not change with the program.
_ALWAYS_LISTED = frozenset(
    ("dataset", "encoding", "image_size", "labels", "num_shards", "patient_pattern")
    + ("quality", "seed", "split_policy", "test_fraction", "validation_fraction")
    + ("version",)
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class _SetConfig:
    """The flags that say what becomes which set; first in `--help`."""

    input_dir: str = cli.required(
        "holds any of train/ val/ test/ with class sub-folders, or the class folders "
        "themselves; or kaggle:OWNER/DATASET, or a URL such as s3://BUCKET/PATH",
        heading="films and set",
        remote=True,
    )
    output_dir: str = cli.option(
        "data",
        "root, a folder or URL; the set is written to OUTPUT_DIR/DATASET/VERSION/",
        remote=True,
    )
    dataset: str = cli.option("chest_xray", "name of the set")
    version: str = cli.option("1.0.0", "version of the set, MAJOR.MINOR.PATCH")
    image_size: int = cli.option(
        224, "stored height = width in pixels", lower=24, upper=4096
    )
    encoding: str = cli.option(
        "jpeg",
        "stored as 8-bit grey 'jpeg' (--quality), 'png', or 'raw' (uint8 samples, no "
        "decoding at training)",
        choices=images.ENCODINGS,
    )
    quality: int = cli.option(95, "of --encoding=jpeg", lower=1, upper=100)


@dataclasses.dataclass(frozen=True, kw_only=True)
class ConversionConfig(sources.SourceConfig, planning.PlanConfig, _SetConfig):
    """Every flag of a conversion."""

    workers: int = cli.option(
        0,
        "processes; 0 is one a core",
        lower=0,
        upper=1024,
        heading="the conversion itself",
    )
    runner: str = cli.option(
        "local",
        "'beam' decodes images and writes shards as Apache Beam transforms (extra "
        "'beam'); the bytes are the same",
        choices=("local", "beam"),
    )
    beam_options: tuple[str, ...] = cli.option(
        (),
        "of --runner=beam, passed on: --direct_num_workers=4,"
        "--direct_running_mode=multi_processing, or --runner=FlinkRunner,...; workers "
        "on other machines need --input_dir and --output_dir on a disk they share",
    )
    patient_key_file: str = cli.option(
        "",
        "key that PatientID of DICOM files is hashed with (HMAC-SHA256); made where it "
        "is missing (default: OUTPUT_DIR/DATASET/patients.key)",
    )
    set_card: str = cli.option(
        "",
        "JSON card of the set: whose films these are and what their labels rest on "
        "(keys: cxr/set_card.py); it stands in the set, its report, evaluations and "
        "model cards. One comes with cxr: chest_xray",
    )
    max_bad_fraction: float = cli.option(
        0.05, "a larger share of unreadable files is an error", lower=0, upper=1
    )

    def validate(self) -> None:
        """Raises UsageError for a name, version or pattern that cannot work."""
        if self.beam_options and self.runner != "beam":
            raise cli.UsageError(
                f"--beam_options={','.join(self.beam_options)}: of --runner=beam "
                f"alone, not {self.runner}"
            )
        planning.PlanConfig.validate(self)
        sources.SourceConfig.validate(self)
        if not re.fullmatch(r"[A-Za-z]\w*", self.dataset, re.ASCII):
            raise cli.UsageError(
                f"--dataset={self.dataset}: expected letters, digits and _, a letter "
                "first, such as chest_xray"
            )
        if not re.fullmatch(r"\d+\.\d+\.\d+", self.version, re.ASCII):
            raise cli.UsageError(
                f"--version={self.version}: expected MAJOR.MINOR.PATCH, such as 1.0.1"
            )

    @property
    def folder(self) -> pathlib.Path:
        """The folder of the set."""
        return pathlib.Path(self.output_dir) / self.dataset / self.version

    @property
    def key_file(self) -> pathlib.Path:
        """Makes keys of patients' IDs; beside the set, so that its versions agree."""
        beside = self.folder.parent / "patients.key"
        return pathlib.Path(self.patient_key_file or beside)

    @property
    def stored(self) -> spool.Encoding:
        """How the images are stored."""
        return spool.Encoding(self.image_size, self.encoding, self.quality)

    @property
    def shaping_flags(self) -> dict[str, Any]:
        """The flags that shape the set's bytes, as a manifest would hold them."""
        return {name: _as_json(getattr(self, name)) for name in self.default_flags}

    @property
    def listed_flags(self) -> dict[str, Any]:
        """Those of them that the manifest lists."""
        return {
            name: value
            for name, value in sorted(self.shaping_flags.items())
            if name in _ALWAYS_LISTED or value != self.default_flags[name]
        }

    @property
    def default_flags(self) -> dict[str, Any]:
        """The value of every flag that is left out, as a manifest would hold it."""
        fields = (f for f in dataclasses.fields(self) if f.name not in _SHAPELESS)
        return {field.name: _as_json(field.default) for field in fields}


def convert(
    config: ConversionConfig, *, log: Callable[[str], None] = console.say
) -> records.RecordSet:
    """Converts a folder of images, or finishes a conversion that was interrupted.

    Args:
      config: the flags.
      log: receives what happens, a line at a time.

    Raises:
      UsageError: wrong folders, or the version holds another set.
      DataError: the images cannot make a set.
      UnavailableError: a download failed or a worker died.
      StorageError: the disk refused.
    """
    with sets.published(config.output_dir, config.dataset, config.version, log) as root:
        return _convert(dataclasses.replace(config, output_dir=root), log)


def _convert(config: ConversionConfig, log: Callable[[str], None]) -> records.RecordSet:
    began = time.monotonic()
    _refuse_links(config.folder)
    card = set_card.read(config.set_card) if config.set_card else None
    tree = find_sources(config)
    _check_apart(config, tree)
    for note in tree.notes:
        log(note)
    if existing := _find_existing(config, tree, card, log):
        return existing
    with _work_folder(config.folder) as work:
        (config.folder / records.MANIFEST).unlink(missing_ok=True)
        chunks = _chunks(config, tree, work)
        with _workers(config, few=len(chunks) == 1) as pool:
            spooled = _convert_images(chunks, pool, log)
            converted = [image for image in spooled if not image.reason]
            rejected = [*tree.rejected, *_unreadable(spooled)]
            _check_bad_fraction(config, rejected, len(converted), work)
            looks, statistics = spool.read_measured(converted)
            pairs = near_duplicates.find(looks)
            plan = planning.make(converted, config, pairs, statistics)
            _announce(config, plan, log)
            written = _write_shards(config, plan, pool, work)
        rejected = sorted([*rejected, *plan.rejected])
        identities = existing_set.listed(tree)
        identities |= {image.path: image.sha256 or image.reason for image in spooled}
        manifest = _manifest(config, plan, written, identities)
        outcome = metadata.Outcome(
            converted, plan, rejected, manifest, looks, statistics, card
        )
        for warning in _write_report(config.folder, outcome, time.monotonic() - began):
            log(f"warning: {warning}")
        manifest = metadata.publish(config.folder, outcome)
        shutil.rmtree(work)
    record_set = records.RecordSet(config.folder, manifest)
    _say_doubts(converted, log)
    _summarise(record_set, len(rejected), time.monotonic() - began, log)
    return record_set


def _workers(
    config: ConversionConfig, *, few: bool
) -> contextlib.AbstractContextManager[workers.Mapper]:
    if config.runner == "beam":
        return beam_runner.started(config.beam_options)
    # A second process would cost a small set more than it brings.
    return workers.started(1 if few else config.workers, preload=__name__)


def _find_existing(
    config: ConversionConfig,
    tree: sources.Tree,
    card: set_card.SetCard | None,
    log: Callable[[str], None],
) -> records.RecordSet | None:
    """Returns the set that the flags ask for, where it is there; as `existing_set`."""
    return existing_set.find(
        config.folder,
        config.shaping_flags,
        tree,
        log,
        defaults=config.default_flags,
        card_sha256=files.sha256_bytes(card.to_json().encode()) if card else "",
    )


def _unreadable(spooled: list[spool.Converted]) -> list[Rejected]:
    return [Rejected(i.path, i.reason, i.detail) for i in spooled if i.reason]


def _as_json(value: Any) -> Any:
    """Returns a flag's value as it comes back from a manifest."""
    return list(value) if isinstance(value, tuple) else value


def find_sources(config: ConversionConfig) -> sources.Tree:
    """Lists the sources that `--input_dir` names, downloading them if need be."""
    if config.input_dir.startswith(sources.KAGGLE_PREFIX):
        handle = config.input_dir.removeprefix(sources.KAGGLE_PREFIX)
        folder = sources.download(handle)
    elif places.is_remote(config.input_dir):
        folder = films.fetch(config.input_dir)
    else:
        folder = pathlib.Path(config.input_dir)
    return sources.find(folder, config, split_policy=config.split_policy)


def _refuse_links(folder: pathlib.Path) -> None:
    """Refuses a set's folder, OUTPUT_DIR/NAME/VERSION, that a link leads away from."""
    for part in (folder.parent, folder):
        if part.is_symlink():
            raise cli.DataError(
                f"{part}: a link; nothing is written through links below --output_dir"
                f"\ngive the folder it leads to as --output_dir, or remove the link"
            )
    files.refuse_links(folder)


def _check_apart(config: ConversionConfig, tree: sources.Tree) -> None:
    """Refuses to write a set among the images that it is made from."""
    root, folder = tree.root.resolve(), config.folder.resolve()
    tops = {root / source.path.partition("/")[0] for source in tree.sources}
    if any(folder == top or top in folder.parents for top in tops) or any(
        (root / source.path).is_relative_to(folder) for source in tree.sources[:1]
    ):
        raise cli.UsageError(
            f"--output_dir={config.output_dir}: the set would lie among the images of "
            f"--input_dir={config.input_dir}; choose another folder"
        )


@contextlib.contextmanager
def _work_folder(folder: pathlib.Path) -> Iterator[pathlib.Path]:
    """Yields the hidden folder of an unfinished set, for one conversion at a time."""

    def refusal(holder: str) -> cli.UsageError:
        return cli.UsageError(
            f"{folder}: another conversion, {holder}, is writing this set; wait for "
            "it, or choose another --version"
        )

    work = folder / existing_set.WORK_FOLDER
    work.mkdir(parents=True, exist_ok=True)
    with locks.hold(work / "lock", refusal):
        pattern = f"{files.TEMPORARY_PREFIX}*"
        for leftover in [*folder.glob(pattern), *work.glob(pattern)]:
            leftover.unlink(missing_ok=True)
        yield work


def _chunks(
    config: ConversionConfig, tree: sources.Tree, work: pathlib.Path
) -> list[spool.Chunk]:
    size = spool.images_a_chunk(tree.root, tree.sources)
    starts = range(0, len(tree.sources), size)
    return [
        spool.Chunk(
            root=tree.root,
            sources=tree.sources[start : start + size],
            path=work / f"images-{index:06d}",
            encoding=config.stored,
            key_file=config.key_file,
        )
        for index, start in enumerate(starts)
    ]


def _convert_images(
    chunks: list[spool.Chunk], pool: workers.Mapper, log: Callable[[str], None]
) -> list[spool.Converted]:
    """Converts the images that the spool does not hold yet; returns all of them."""
    missing = [chunk for chunk in chunks if not spool.is_current(chunk)]
    todo = sum(len(chunk.sources) for chunk in missing)
    total = sum(len(chunk.sources) for chunk in chunks)
    if todo < total:
        taken = counted(total - todo, "image")
        log(f"taking over {taken} from an interrupted conversion")
    began = time.monotonic()
    results = pool.map(spool.convert, missing)
    for _ in workers.watch(results, total=todo, label="converting", unit="image"):
        pass
    seconds = time.monotonic() - began
    if todo:
        rate = todo / seconds
        done = counted(todo, "image")
        log(f"converted {done} in {seconds:.1f} s ({rate:.0f} images/s)")
    return [image for chunk in chunks for image in spool.read_converted(chunk)]


def _check_bad_fraction(
    config: ConversionConfig,
    rejected: list[Rejected],
    num_good: int,
    work: pathlib.Path,
) -> None:
    """Refuses too large a share of bad files; what a rule leaves aside is not bad."""
    bad = [row for row in rejected if row.reason not in reasons.BY_RULE]
    total = num_good + len(bad)
    share = len(bad) / max(total, 1)
    if share <= config.max_bad_fraction:
        return
    listing = work / metadata.QUARANTINE
    metadata.publish_quarantine(listing, rejected)
    first = min(bad)
    raise cli.DataError(
        f"--max_bad_fraction={config.max_bad_fraction}: {len(bad)} of {total} "
        f"files ({share:.1%}) are unreadable; nothing was published\n"
        f"such as {first.path!r}: {first.reason}: {first.detail}\n"
        f"all of them: {listing}\n"
        "repair or remove them, or allow a larger share"
    )


def _announce(
    config: ConversionConfig, plan: planning.Plan, log: Callable[[str], None]
) -> None:
    """Says what a person should know before trusting the splits."""
    log(f"split policy {plan.policy}, classes {', '.join(plan.class_names)}")
    if len(plan.class_names) == 2:
        positive = class_names.positive(plan.class_names, config.positive_class)
        log(f"positive class {positive}; --positive_class decides")
    if plan.copies:
        log(f"{plan.copies} files are copies by their names, kept with their originals")
    if plan.joined:
        log(
            f"{plan.joined} images look like another, perhaps mirrored or turned, and "
            "are kept on its side"
        )
    if plan.apart:
        log(
            f"warning: {len(plan.apart)} pairs of images look alike and stand on two "
            f"sides, such as {plan.apart[0].path} and {plan.apart[0].other}; see "
            f"{REPORT}"
        )
    if plan.unmatched and plan.policy != "test_only":
        paths = (
            example.image.path
            for shards in plan.shards.values()
            for example in itertools.chain.from_iterable(shards)
            if example.patient_id == example.image.path
        )
        advice = patients.advice(paths, plan.class_names) or "give a --patient_pattern"
        log(
            f"warning: {plan.unmatched} file names tell no patient: each counts as a "
            "patient of its own, so images of one patient may stand on two sides; "
            f"{advice}"
        )


def _write_shards(
    config: ConversionConfig,
    plan: planning.Plan,
    pool: workers.Mapper,
    work: pathlib.Path,
) -> dict[str, tuple[records.Shard, ...]]:
    """Writes the shards that are missing; returns all of them by split, in order."""
    by_split = shards.jobs(
        plan, config.stored, folder=config.folder, work=work, dataset=config.dataset
    )
    jobs = [job for split in by_split.values() for job in split]
    wanted = {job.path for job in jobs}
    for old in config.folder.glob("*.tfrecord-*"):
        if old not in wanted:  # of an unfinished conversion with other flags
            old.unlink()
    written = {shard.file: shard for shard in pool.map(shards.write, jobs)}
    return {
        split: tuple(written[job.path.name] for job in jobs)
        for split, jobs in by_split.items()
    }


def _manifest(
    config: ConversionConfig,
    plan: planning.Plan,
    written: dict[str, tuple[records.Shard, ...]],
    identities: dict[str, str],
) -> records.Manifest:
    """Returns the manifest but for its files."""
    return records.Manifest(
        name=config.dataset,
        version=config.version,
        class_names=plan.class_names,
        image_size=config.image_size,
        encoding=config.encoding,
        splits=metadata.splits(plan, written),
        files={},
        flags=config.listed_flags,
        versions={"cxr": cxr.__version__, **spool.versions()},
        sources=existing_set.sources_digest(identities),
    )


def _write_report(
    folder: pathlib.Path, outcome: metadata.Outcome, seconds: float
) -> list[str]:
    """Writes the report; returns what should be seen without opening it."""
    content = set_report.numbers(outcome, seconds)
    spool.store(folder / records.REPORT_JSON, set_report.to_json(content))
    spool.store(folder / REPORT, set_report.to_html(content, outcome))
    return list(set_report.shortcut_warnings(content))


def _say_doubts(converted: list[spool.Converted], log: Callable[[str], None]) -> None:
    """Says what cannot be known of the images that were taken."""
    if burned := [image.path for image in converted if image.burned_in]:
        log(
            f"warning: {len(burned)} DICOM files say that annotations are burned into "
            f"their pixels, such as {burned[0]}; {REPORT} lists them"
        )
    unchecked = collections.Counter(i.unchecked for i in converted if i.unchecked)
    if unchecked:
        log(images.unchecked_note(unchecked))


def _summarise(
    record_set: records.RecordSet,
    num_rejected: int,
    seconds: float,
    log: Callable[[str], None],
) -> None:
    for split in record_set.manifest.splits.values():
        counts = ", ".join(f"{n} {label}" for label, n in split.class_counts.items())
        log(
            f"{split.name}: {counted(split.num_examples, 'image')} ({counts}), "
            f"{counted(split.num_patients, 'patient')}, "
            f"{counted(len(split.shards), 'shard')}, "
            f"{split.num_bytes / 1e6:.1f} MB"
        )
    if num_rejected:
        log(f"{counted(num_rejected, 'file')} kept out, see {metadata.QUARANTINE}")
    log(f"complete in {seconds:.1f} s; report: {record_set.path / REPORT}")
