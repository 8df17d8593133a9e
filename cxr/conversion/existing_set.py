"""Decides whether a folder already holds the set that the flags ask for."""

import hashlib
import pathlib
from collections.abc import Callable, Mapping
from typing import Any

from cxr import cli, records, set_card, tables
from cxr.conversion import metadata, sources, spool

WORK_FOLDER = ".converting"


def find(
    folder: pathlib.Path,
    flags: dict[str, Any],
    tree: sources.Tree,
    log: Callable[[str], None],
    *,
    defaults: Mapping[str, Any],
    card_sha256: str = "",
) -> records.RecordSet | None:
    """Returns the set in `folder` when it is just what the flags ask for.

    Args:
      folder: of the version.
      flags: all that shape the bytes, as a manifest would hold them.
      tree: the sources of today.
      log: receives what was found.
      defaults: of flags; a flag that the manifest does not list, because it came
        later, has its default there.
      card_sha256: of the card as a set holds it; empty without `--set_card`.

    Raises:
      UsageError: another set, or foreign files, lie there; nothing is mixed in.
      DataError: its manifest is damaged.
    """
    if not (folder / records.MANIFEST).exists():
        _check_foreign(folder)
        return None
    record_set = records.load(folder)
    there = {**defaults, **record_set.manifest.flags}
    differing = [
        f"--{name}={flags.get(name)} (there: {there.get(name)})"
        for name in sorted(flags.keys() | there.keys())
        if flags.get(name) != there.get(name)
    ]
    if differing:
        raise _refusal(folder, f"made with other flags: {', '.join(differing)}")
    listed_card = record_set.manifest.files.get(set_card.FILE, {})
    if card_sha256 != listed_card.get("sha256", ""):
        raise _refusal(folder, "made with another --set_card, or with none")
    identities = identify(tree)
    if sources_digest(identities)["sha256"] != record_set.manifest.sources.get(
        "sha256"
    ):
        change = _describe_change(folder, identities, record_set)
        raise _refusal(folder, f"made from other sources: {change}")
    try:
        records.check(record_set)
    except cli.DataError as error:
        log(f"the set is damaged and is made again: {error}")
        return None
    log(f"{folder} is complete already, from the same flags and sources")
    return record_set


def identify(tree: sources.Tree) -> dict[str, str]:
    """Returns the SHA-256 of every source, or why it cannot be read, by path."""
    identities = listed(tree)
    for source in tree.sources:
        identities[source.path] = spool.identify(tree.root, source.path)
    return identities


def listed(tree: sources.Tree) -> dict[str, str]:
    """Returns what is known of a set's sources without reading a film."""
    identities = {row.path: row.reason for row in tree.rejected}
    if tree.table_sha256:
        identities["--labels_csv"] = tree.table_sha256
    return identities


def sources_digest(identities: dict[str, str]) -> dict[str, Any]:
    """Returns the manifest's `sources`: what `identify` says, in one hash."""
    digest = hashlib.sha256()
    for path in sorted(identities):
        digest.update(f"{path}\0{identities[path]}\n".encode())
    return {"files": len(identities), "sha256": digest.hexdigest()}


def _check_foreign(folder: pathlib.Path) -> None:
    if not folder.is_dir() or (folder / WORK_FOLDER).is_dir():
        return
    names = sorted(path.name for path in folder.iterdir())
    if names:
        raise _refusal(
            folder, f"{len(names)} files that no conversion left, such as {names[0]!r}"
        )


def _refusal(folder: pathlib.Path, what: str) -> cli.UsageError:
    return cli.UsageError(
        f"{folder}: holds a set {what}\n"
        f"nothing was changed; write another with --version={_next_version(folder)}, "
        "choose another --output_dir, or delete the folder first"
    )


def _next_version(folder: pathlib.Path) -> str:
    major, minor, patch = (int(part) for part in folder.name.split("."))
    while (folder.parent / f"{major}.{minor}.{patch}").exists():
        patch += 1
    return f"{major}.{minor}.{patch}"


def _describe_change(
    folder: pathlib.Path, now: dict[str, str], record_set: records.RecordSet
) -> str:
    rows = record_set.examples()
    before = {row["filename"]: row["source_sha256"] for row in rows}
    quarantine = (folder / metadata.QUARANTINE).read_bytes().decode()
    bad = {row[0] for row in tables.parse(quarantine)[1:]}
    known = before.keys() | bad
    groups = {
        "added": sorted(now.keys() - known),
        "removed": sorted(known - now.keys()),
        "changed": sorted(p for p, sha in before.items() if now.get(p, sha) != sha),
    }
    parts = [
        f"{len(paths)} {what} (such as {paths[0]!r})"
        for what, paths in groups.items()
        if paths
    ]
    return ", ".join(parts) or "files in quarantine changed"
