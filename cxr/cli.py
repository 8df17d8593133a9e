"""Parses command lines into frozen dataclasses; turns errors into exit codes.

A configuration is a frozen dataclass whose fields are made by `option` or
`required`: one definition gives a flag's name, type, default, bounds and help.
absl parses them on a FlagValues of our own, so importing a module never
registers a flag and the same dataclass serves several commands.
"""

import contextlib
import dataclasses
import difflib
import functools
import os
import pathlib
import re
import signal
import sys
import textwrap
import traceback
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, get_args, get_origin

from absl import flags

from cxr import console, platforms, pulse

# No error for the user ends with 1: that is Python's code, with a traceback, where the
# fault is ours, and cxr.bench's answer where something became slower.
EXIT_USAGE = 2
EXIT_DATA = 65  # sysexits.h EX_DATAERR
EXIT_UNAVAILABLE = 69  # EX_UNAVAILABLE
EXIT_STORAGE = 74  # EX_IOERR
_EXIT_OUTPUT_CLOSED = 128 + 13  # as of a program that SIGPIPE ends
# The flagfiles that come with the package; in a checkout a link to the recipes.
CONFIGS = pathlib.Path(__file__).parent / "configs"
_MAX_ERROR_LINES = 6
REMOTE_SCHEMES = ("s3", "gs", "az")  # of object storage, as `cxr.storage` reads it
# Names of flags whose values are paths.
_PATHS = re.compile(r"(_dir|_csv|_file)$|^(workdir|compare|output|baseline|weights)$")


class CommandError(Exception):
    """An error for the user: its message is shown without a traceback.

    Raised as one of the kinds below, or as one that sets its own code.
    """

    exit_code: int


class UsageError(CommandError):
    """A wrong flag, value or path on the command line."""

    exit_code = EXIT_USAGE


class DataError(CommandError):
    """Bad, damaged or insufficient data."""

    exit_code = EXIT_DATA


class UnavailableError(CommandError):
    """Something needed is missing: a GPU, a package, a file, a later feature."""

    exit_code = EXIT_UNAVAILABLE


class StorageError(CommandError):
    """The disk or a file refused to be read or written."""

    exit_code = EXIT_STORAGE


class Stopped(CommandError):
    """Work that somebody stopped, which is no error."""


class Terminated(BaseException):
    """SIGTERM came: what is open is closed in order, as after Ctrl-C."""


class Failure(NamedTuple):
    """How a command ends that does not finish: what is told, with which exit code."""

    text: str
    exit_code: int


def option(
    default: Any,
    help: str,
    *,
    lower: float | None = None,
    upper: float | None = None,
    choices: tuple[str, ...] | None = None,
    heading: str = "",
    remote: bool = False,
) -> Any:
    """Returns a dataclass field that is also a flag.

    Args:
      default: value without the flag; an int, float, bool, str or tuple of str.
      help: one or two sentences for `--help`, with the unit.
      lower: smallest allowed number.
      upper: largest allowed number.
      choices: the closed set of allowed strings.
      heading: `--help` begins a group of flags with this one, under this heading.
      remote: of a path: a URL of object storage is one, too.
    """
    metadata = {"help": help, "lower": lower, "upper": upper, "choices": choices}
    metadata |= {"heading": heading, "remote": remote}
    return dataclasses.field(default=default, metadata=metadata)


def required(help: str, *, heading: str = "", remote: bool = False) -> Any:
    """Returns a dataclass field that is a flag without which the command stops."""
    metadata = {"help": help, "heading": heading, "remote": remote}
    return dataclasses.field(metadata=metadata)


def parse(argv: list[str], *configs: type, usage: str) -> tuple:
    """Parses a command line into one instance of each configuration class.

    Args:
      argv: the command line, the program's name first. A `--flagfile` that does not
        exist here but names one of `CONFIGS` means that one.
      *configs: frozen dataclasses made of `option` and `required` fields; names
        may not repeat among them.
      usage: what the command does and how it is called, shown by `--help`.

    Returns:
      `(*instances, positional)`: the instances in order, then the remaining
      arguments as a list of str.

    Raises:
      UsageError: unknown flag, unparsable or out-of-range value, missing flag.
      SystemExit: with status 0 after `--help`.
    """
    values = flags.FlagValues()
    for config in configs:
        for field in dataclasses.fields(config):
            _define(field, values)
    if _asks_help(argv):
        console.say(_help_text(usage, configs))
        raise SystemExit(0)
    positional = _parse(_find_flagfiles(argv), values, configs)
    instances = [_build(config, values) for config in configs]
    return (*instances, positional)


def to_flags(config: Any) -> str:
    """Returns flagfile text, `--name=value` a line, that parses to `config`."""
    lines = []
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        if isinstance(value, tuple):
            value = ",".join(value)
        text = str(value).lower() if isinstance(value, bool) else str(value)
        lines.append(f"--{field.name}={text}\n")
    return "".join(lines)


def reject_positional(positional: list[str]) -> None:
    """Raises UsageError when a command that takes only flags got more."""
    if positional:
        raise UsageError(
            f"unexpected argument {positional[0]!r}: this command takes only flags "
            "(--name=value); see --help"
        )


def run(main: Callable[[list[str]], int | None]) -> None:
    """Calls `main(sys.argv)` and exits with the contract's code.

    Errors for the user are shown in at most six lines without a traceback;
    `--debug` anywhere on the command line shows it.
    """
    platforms.configure_process()
    # TensorFlow's C++ notes are for its developers; errors still come through.
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    signal.signal(signal.SIGTERM, _terminate)
    try:
        with pulse.beating(_show_life):
            code = _call(main)
        try:
            sys.stdout.flush()
        except BrokenPipeError as error:
            raise console.OutputClosed from error
    except console.OutputClosed:
        code = _EXIT_OUTPUT_CLOSED
        _discard_output()
    sys.exit(code)


def _show_life(line: str) -> None:
    """Prints a line that is for whoever waits now, so no copy of it is kept."""
    with contextlib.suppress(OSError, ValueError):  # nobody there to see it
        print(console.printable(line), file=sys.stderr, flush=True)


def _call(main: Callable[[list[str]], int | None]) -> int:
    """Returns the exit code of `main`, having told why where it failed."""
    argv = [arg for arg in sys.argv if arg != "--debug"]
    try:
        return main(argv) or 0
    except (KeyboardInterrupt, Terminated, CommandError, ImportError, OSError) as error:
        failure = failure_of(error)
        assert failure is not None  # of these kinds
        if "--debug" in sys.argv:
            traceback.print_exc()
        console.note(failure.text)
        return failure.exit_code


def failure_of(error: BaseException) -> Failure | None:
    """Returns what a command tells of an error; None where the fault is ours.

    Then Python shows its traceback, and ends with 1.
    """
    if isinstance(error, KeyboardInterrupt):
        return Failure("interrupted", 128 + signal.SIGINT)
    if isinstance(error, Terminated):
        return Failure("stopped by SIGTERM", 128 + signal.SIGTERM)
    if isinstance(error, Stopped):
        return Failure(str(error), error.exit_code)
    if isinstance(error, CommandError):
        lines = str(error).strip().split("\n")[:_MAX_ERROR_LINES]
        return Failure("error: " + "\n".join(lines), error.exit_code)
    if isinstance(error, ImportError):
        return Failure(
            f"error: {_one_line(str(error))}: a package that cxr needs is missing, or "
            "does not run on this system; the README says which systems it was tried "
            "on",
            EXIT_UNAVAILABLE,
        )
    if isinstance(error, OSError):
        return Failure(f"error: {_describe_os_error(error)}", EXIT_STORAGE)
    return None


def _discard_output() -> None:
    """Lets Python flush what it still holds for a closed pipe when it ends."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError):  # no file of the system
            os.dup2(nowhere, stream.fileno())


def _terminate(number: int, frame: Any) -> None:
    raise Terminated


def _define(field: dataclasses.Field, values: flags.FlagValues) -> None:
    required = field.default is dataclasses.MISSING
    default: Any = None if required else field.default
    meta, options = field.metadata, {}
    if meta.get("choices"):
        define, options = flags.DEFINE_enum, {"enum_values": meta["choices"]}
    elif get_origin(field.type) is tuple:
        assert get_args(field.type) == (str, ...), f"{field.name}: only tuple[str, ...]"
        # Given several times, or several values between commas, or both.
        define = flags.DEFINE_multi_string
        default = None if required else list(default)
    elif field.type is bool:
        define = flags.DEFINE_boolean
    elif field.type in (int, float):
        define = flags.DEFINE_integer if field.type is int else flags.DEFINE_float
        options = {"lower_bound": meta.get("lower"), "upper_bound": meta.get("upper")}
    else:
        define = flags.DEFINE_string
    options |= {"help": meta["help"], "flag_values": values, "required": required}
    define(field.name, default, **options)


def _asks_help(argv: list[str]) -> bool:
    ends = argv.index("--") if "--" in argv else len(argv)
    return any(arg in ("--help", "-h", "-help", "--helpfull") for arg in argv[1:ends])


def _find_flagfiles(argv: list[str]) -> list[str]:
    """Puts the packaged flagfiles in the place of those that only name them."""
    found = list(argv)
    for index, arg in enumerate(argv):
        if arg == "--":
            break
        if arg in ("--flagfile", "-flagfile") and index + 1 < len(argv):
            found[index + 1] = _find_flagfile(argv[index + 1])
        elif match := re.fullmatch(r"(--?flagfile=)(.+)", arg):
            found[index] = match[1] + _find_flagfile(match[2])
    return found


def _find_flagfile(name: str) -> str:
    meant = find_packaged(name, ".flags")
    if meant is None:
        return name
    console.note(f"--flagfile={name}: the recipe that comes with cxr, {meant}")
    return str(meant)


def find_packaged(name: str, suffix: str) -> pathlib.Path | None:
    """Returns the file of `CONFIGS` that a name means, None for a file that is here.

    Args:
      name: such as `vgg16`, `vgg16.flags` or `configs/vgg16.flags`.
      suffix: of the file's name, such as `.flags`.
    """
    path = pathlib.Path(name)
    short = path.name.removesuffix(suffix)
    packaged = CONFIGS / f"{short}{suffix}"
    names_it = path.as_posix() in (short, packaged.name, f"configs/{packaged.name}")
    return packaged if names_it and packaged.is_file() and not path.is_file() else None


def _parse(
    argv: list[str], values: flags.FlagValues, configs: tuple[type, ...]
) -> list[str]:
    try:
        return values(argv)[1:]
    except flags.UnrecognizedFlagError as error:
        close = difflib.get_close_matches(error.flagname, list(values), n=1)
        hint = f"did you mean --{close[0]}?" if close else "see --help for the flags"
        raise UsageError(f"unknown flag --{error.flagname}; {hint}") from error
    except flags.CantOpenFlagFileError as error:
        reason = _one_line(str(error)).partition("flagfile: ")[2]
        raise UsageError(
            f"--flagfile: {reason}; expected a file of flags, or one of "
            f"{_packaged_names()}"
        ) from error
    except flags.Error as error:
        raise UsageError(_explain(error, configs)) from error


def _build(config: type, values: flags.FlagValues) -> Any:
    found = {}
    for field in dataclasses.fields(config):
        value = values[field.name].value
        if isinstance(value, list):
            value = tuple(part for text in value for part in text.split(",") if part)
        text = "".join(value) if isinstance(value, tuple) else str(value)
        if console.holds_controls(text):
            # A flagfile, a line each, could not give it back.
            raise UsageError(f"--{field.name}={value!a}: holds control characters")
        if _PATHS.search(field.name):
            _check_scheme(field, value if isinstance(value, tuple) else (value,))
            expand = functools.partial(_expand, field.name)
            value = _map_texts(expand, value)
        found[field.name] = value
    instance = config(**found)
    if hasattr(instance, "validate"):
        instance.validate()
    return instance


def _map_texts(function: Callable[[str], str], value: Any) -> Any:
    return tuple(map(function, value)) if isinstance(value, tuple) else function(value)


def _check_scheme(field: dataclasses.Field, paths: Sequence[str]) -> None:
    """Refuses a URL where a path of this machine is meant, and schemes not known."""
    for path in paths:
        match = re.match(r"(\w+)://", path)
        if not match:
            continue
        remote = field.metadata.get("remote")
        if not remote or match[1] not in REMOTE_SCHEMES:
            known = ", ".join(f"{scheme}://..." for scheme in REMOTE_SCHEMES)
            raise UsageError(
                f"--{field.name}={path}: expected a path of this machine"
                + (f", or one of {known}" if remote else "")
            )


def _expand(flag: str, path: str) -> str:
    """Returns a path with `~` and `$NAME` resolved, which no shell does behind a `=`.

    Raises:
      UsageError: a variable that is not set.
    """
    if not re.search(r"^~|\$\{?\w", path) or os.path.lexists(path):
        return path
    expanded = os.path.expanduser(os.path.expandvars(path))
    if missing := re.search(r"\$\{?(\w+)", expanded):
        raise UsageError(
            f"--{flag}={path}: the variable {missing[1]} is not set; write the path out"
        )
    return expanded


def _help_text(usage: str, configs: tuple[type, ...]) -> str:
    lines = [textwrap.dedent(usage).strip()]
    indent = " " * 6
    wrapper = textwrap.TextWrapper(76, indent, indent)
    fields = [field for config in configs for field in dataclasses.fields(config)]
    for index, field in enumerate(fields):
        heading = field.metadata.get("heading") or ("" if index else "flags")
        if heading:
            lines += ["", f"{heading}:"]
        lines.append(f"  --{field.name}{_describe_type(field)}")
        lines += wrapper.wrap(field.metadata["help"])
    lines += ["", "of every command:"]
    lines.append("  --flagfile=PATH\n      read flags from a file, one a line, or from")
    lines.append(f"      one that comes with cxr: {_packaged_names()}")
    lines.append(
        "  --debug\n      show the traceback of an error, and all that TensorFlow says"
    )
    return "\n".join(lines)


def _packaged_names() -> str:
    return ", ".join(sorted(path.stem for path in CONFIGS.glob("*.flags")))


def _describe_type(field: dataclasses.Field) -> str:
    kinds: dict[Any, str] = {int: "INT", float: "FLOAT", bool: "BOOL", str: "TEXT"}
    choices = "|".join(field.metadata.get("choices") or ())
    kind = choices or kinds.get(field.type, "A,B,...")
    if field.default is dataclasses.MISSING:
        return f"={kind} (required)"
    default = field.default
    if isinstance(default, tuple):
        default = ",".join(default)
    shown = repr(default) if default == "" else default
    return f"={kind} (default {shown})"


def _explain(error: flags.Error, configs: tuple[type, ...]) -> str:
    """Adds what would have been right to absl's message, which names flag and value."""
    message = _one_line(str(error))
    found = re.match(r"flag --(?P<name>\w+)=", message)
    for field in (f for config in configs for f in dataclasses.fields(config)):
        if found and field.name == found["name"]:
            return f"{message}; expected --{field.name}{_describe_type(field)}"
    return message


def _one_line(text: str) -> str:
    return " ".join(text.split())


def _describe_os_error(error: OSError) -> str:
    where = f"{error.filename}: " if error.filename else ""
    return f"{where}{error.strerror or error}"
