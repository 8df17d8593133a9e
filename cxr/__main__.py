"""One command in front of all entry points: `cxr VERB ...`, or `python -m cxr VERB`.

Imports nothing but the standard library until a verb is known, so that `cxr --help`
and `cxr --version` answer at once, also where packages are missing.
"""

import difflib
import importlib
import importlib.metadata
import importlib.util
import pathlib
import platform
import sys
import types
from collections.abc import Mapping

import cxr

# Verb to its module and what it does.
VERBS: Mapping[str, tuple[str, str]] = types.MappingProxyType(
    {
        "convert": ("tools.make_tfrecords", "films to TFRecords, split by patient"),
        "verify": ("tools.verify_tfrecords", "check every byte of a converted set"),
        "train": ("cxr.train", "train a classifier; again: resume"),
        "evaluate": ("cxr.evaluate", "judge a run on a split, with intervals"),
        "predict": ("cxr.predict", "predict new films: CSV, JSON, Grad-CAM"),
        "export": ("cxr.export", "SavedModel, ONNX, OpenVINO or LiteRT"),
        "bench": ("cxr.bench", "measure what limits training here"),
        "doctor": ("cxr.doctor", "what this machine has, lacks and will be slow at"),
    }
)
_HELP = ("--help", "-h", "-help", "--helpfull")  # as cli.parse
_EXIT_USAGE, _EXIT_UNAVAILABLE = 2, 69  # as cli's, which needs a package


def main() -> None:
    """Runs the command line; ends with the verb's exit code."""
    verb, *args = sys.argv[1:] or ["--help"]
    if verb in (*_HELP, "help"):
        print(_help_text())
    elif verb == "--version":
        print(_version())
    elif verb in VERBS:
        _run(verb, args)
    else:
        print(f"error: {_refusal(verb)}", file=sys.stderr)
        sys.exit(_EXIT_USAGE)


def _run(verb: str, args: list[str]) -> None:
    try:
        from cxr import cli, console
    except ImportError as error:
        print(
            f"error: {error}: {sys.executable} lacks packages that cxr needs; install "
            "cxr with pip there, as README.md says",
            file=sys.stderr,
        )
        sys.exit(_EXIT_UNAVAILABLE)
    sys.argv = [f"cxr {verb}", *args]
    with console.rewording(_in_our_words):
        cli.run(lambda argv: _load(VERBS[verb][0]).main(argv))


def _load(name: str) -> types.ModuleType:
    """Imports an entry point; those of tools/ by their file, beside the package.

    Other packages are called tools, too, and the folder at hand would come first.
    """
    if not name.startswith("tools."):
        return importlib.import_module(name)
    root = pathlib.Path(__file__).parents[1]
    path = root.joinpath(*name.split(".")).with_suffix(".py")
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec and spec.loader, path
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _in_our_words(text: str) -> str:
    for verb, (module, _) in VERBS.items():
        text = text.replace(f"python -m {module}", f"cxr {verb}")
    return text


def _help_text() -> str:
    lines = ["usage: cxr VERB [--flag=value ...]", ""]
    lines += [f"  {verb:10}{meaning}" for verb, (_, meaning) in VERBS.items()]
    lines += ["", "  cxr VERB --help   the verb's flags", "  cxr --version"]
    return "\n".join(lines)


def _version() -> str:
    try:
        tensorflow = f"TensorFlow {importlib.metadata.version('tensorflow')}"
    except importlib.metadata.PackageNotFoundError:
        tensorflow = "no TensorFlow"
    return f"cxr {cxr.__version__} (Python {platform.python_version()}, {tensorflow})"


def _refusal(verb: str) -> str:
    if verb.startswith("-"):
        return f"unknown flag {verb!a} before a verb; expected cxr VERB --flag=value"
    modules = {module.rpartition(".")[2]: name for name, (module, _) in VERBS.items()}
    known = {name: name for name in VERBS} | modules
    close = difflib.get_close_matches(verb.lower(), known, n=1, cutoff=0.5)
    hint = f"expected one of {', '.join(VERBS)}"
    if close:
        hint = f"did you mean {known[close[0]]!r}?"
    return f"unknown verb {verb!a}; {hint}"


if __name__ == "__main__":
    main()
