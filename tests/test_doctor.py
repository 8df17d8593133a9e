"""cxr doctor: what it says of machines and installations that are made up here."""

import importlib.metadata
import json
import os
import sys

import pytest

import cxr
from cxr import cli, doctor, platforms
from cxr.diagnosis import accelerators, check, machine, packages
from cxr.diagnosis.accelerators import ProbeResult

ANSWER = ProbeResult(
    7.0,
    {"tensorflow": "2.21.0", "gpus": [], "why_none": "", "precision": "float32"},
)
METADATA = """\
Metadata-Version: 2.4
Name: cxr
Version: 0.1.0
Requires-Python: >=3.11
Requires-Dist: numpy<3,>=2.1
Provides-Extra: dicom
Requires-Dist: pydicom<4,>=3.0.2; extra == "dicom"
Provides-Extra: elsewhere
Requires-Dist: nothing-here>=1; sys_platform == "none" and extra == "elsewhere"
"""


@pytest.fixture
def versions(monkeypatch):
    """Returns a table of versions that stand for the installed; None: not there."""
    table, real = {}, importlib.metadata.version

    def version(name):
        found = table[name] if name in table else real(name)
        if found is None:
            raise importlib.metadata.PackageNotFoundError(name)
        return found

    monkeypatch.setattr(importlib.metadata, "version", version)
    return table


@pytest.fixture
def quick(monkeypatch):
    """Answers in TensorFlow's place, and asks no GPU."""
    monkeypatch.setattr(accelerators, "ask_tensorflow", lambda timeout_s: ANSWER)
    monkeypatch.setattr(platforms, "_GPU_DRIVER", ())


def one(checks, name):
    (found,) = (check for check in checks if check.name == name)
    return found


def asked(**extras):
    base = extras.pop("base", ["numpy>=2.1,<3"])
    return packages.Requirements(
        ">=3.11", {"": base, **extras}, "pip install 'cxr[{}]'"
    )


def install_everything(versions):
    """Makes up an installation that has all that is asked for."""
    for lines in packages.requirements().extras.values():
        for requirement in packages._parsed(lines):
            floors = [s.version for s in requirement.specifier if s.operator == ">="]
            versions[requirement.name] = (floors or ["1"])[0]


@pytest.mark.parametrize(
    ("flags", "unit", "status"),
    [
        ("sse avx2", None, "slow"),
        ("avx512f avx512_bf16", "AVX512-BF16", "ok"),
        ("avx512_bf16 amx_bf16", "AMX", "ok"),
    ],
)
def test_the_units_of_the_cpu(flags, unit, status, tmp_path, monkeypatch):
    (tmp_path / "cpuinfo").write_text(f"processor : 0\nflags\t: fpu {flags}\nbugs :\n")
    monkeypatch.setattr(platforms, "_CPUS", tmp_path / "cpuinfo")
    monkeypatch.setattr(platforms, "bfloat16_unit", platforms.bfloat16_unit.__wrapped__)
    found = one(machine.cpu(), "bfloat16_unit")
    assert (found.status, found.value) == (status, unit)
    assert (unit or "neither AMX") in found.text


@pytest.mark.parametrize(("cores", "status"), [(1, "slow"), (16, "ok")])
def test_a_single_core_is_slow(cores, status, monkeypatch):
    monkeypatch.setattr(platforms, "available_cores", lambda: cores)
    found = one(machine.cpu(), "cores")
    assert (found.status, found.value) == (status, cores)


@pytest.mark.parametrize(("free", "status"), [(1 << 30, "slow"), (8 << 30, "ok")])
def test_little_memory_is_slow(free, status, monkeypatch):
    monkeypatch.setattr(platforms, "free_memory_bytes", lambda: free)
    (found,) = machine.memory()
    assert (found.status, found.value) == (status, free)


def test_disks_that_are_full_or_closed(tmp_path, monkeypatch):
    here, data = machine.disks(str(tmp_path / "not" / "yet"))
    assert (here.name, data.name) == ("here", "data_dir")
    assert "no such folder yet" in data.text
    monkeypatch.setattr(machine.shutil, "disk_usage", lambda path: os.stat_result)
    monkeypatch.setattr(os.stat_result, "free", 5 << 20, raising=False)
    assert [found.status for found in machine.disks("data")] == ["missing"] * 2
    monkeypatch.setattr(os.stat_result, "free", 5 << 30, raising=False)
    assert [found.status for found in machine.disks("data")] == ["ok"] * 2
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    assert "cannot be written to" in machine.disks("data")[0].text


def test_imagenet_weights_at_hand_or_not(tmp_path, monkeypatch):
    from cxr.training import pretrained

    monkeypatch.setenv("KERAS_HOME", str(tmp_path))
    (found,) = machine.weights()
    assert found.status == "missing"
    assert str(tmp_path) in found.text
    pretrained.imagenet_path().parent.mkdir()
    pretrained.imagenet_path().touch()
    (found,) = machine.weights()
    assert found.status == "ok"


def test_a_report_names_no_user(monkeypatch):
    monkeypatch.setenv("HOME", "/home/anna")
    assert machine.without_home("/home/anna/x") == "~/x"
    assert machine.without_home("/home/annabel/x") == "/home/annabel/x"
    monkeypatch.setenv("HOME", "/")
    assert machine.without_home("/data") == "/data"


@pytest.mark.parametrize(
    ("version", "status"),
    [("2.1.0", "ok"), ("2.9rc1", "ok"), ("1.26.4", "missing"), (None, "missing")],
)
def test_packages_are_held_to_their_ranges(version, status, versions):
    versions["numpy"] = version
    found = one(packages.base(asked()), "numpy")
    assert (found.status, found.value) == (status, version)
    assert found.stops == (status == "missing")
    assert ("pip install 'numpy<3,>=2.1'" in found.text) == found.stops


def test_an_old_python_is_missing_a_new_one(monkeypatch):
    monkeypatch.setattr(packages.platform, "python_version", lambda: "3.10.1")
    found = one(packages.base(asked()), "python")
    assert found.stops
    assert ">=3.11" in found.text


def test_versions_cannot_be_compared_without_packaging(monkeypatch):
    for name in ("packaging", "packaging.specifiers", "packaging.requirements"):
        monkeypatch.setitem(sys.modules, name, None)
    (found,) = packages.base(asked())
    assert found.stops
    assert packages.extras(asked(dicom=["x"]), has_driver=False, gpus=()) == []


def test_extras_are_named_with_the_line_that_installs_them(versions):
    versions |= {"pydicom": None, "pylibjpeg": "2.2", "numba": None}
    table = {
        "dicom": ["pydicom>=3,<4", "pylibjpeg>=2.1,<3"],
        "fast-jpeg": ["numba>=0.63"],
        "test": ["cxr[dicom]", "pylibjpeg>=2.1"],
        "elsewhere": ["no-such; sys_platform == 'none'"],
    }
    found = packages.extras(asked(**table), has_driver=False, gpus=())
    assert [extra.name for extra in found] == [
        "dicom",
        "elsewhere",
        "fast-jpeg",
        "test",
    ]
    states = [extra.status for extra in found]
    assert states == ["missing", "ok", "slow", "missing"]
    assert "pip install 'cxr[dicom]'" in one(found, "dicom").text
    assert one(found, "test").value == ["pydicom"]
    assert not any(extra.stops for extra in found)
    versions["pydicom"] = "2.4"
    found = packages.extras(asked(**table), has_driver=False, gpus=())
    assert one(found, "dicom").value == ["pydicom<4,>=3 (not 2.4)"]


@pytest.mark.parametrize(
    ("has_driver", "gpus", "status"),
    [(False, (), "ok"), (True, (), "missing"), (True, ("H100",), "ok")],
)
def test_cuda_is_wanted_where_a_driver_is(
    has_driver, gpus, status, versions, monkeypatch
):
    needs = ["nvidia-cublas-cu12==12; extra == 'and-cuda'", "absl-py>=1"]
    monkeypatch.setattr(importlib.metadata, "requires", lambda name: needs)
    versions |= {"tensorflow": "2.21.0", "nvidia-cublas-cu12": None}
    table = asked(gpu=["tensorflow[and-cuda]>=2.21"])
    (found,) = packages.extras(table, has_driver=has_driver, gpus=gpus)
    assert found.status == status
    if status == "missing":
        assert found.value == ["nvidia-cublas-cu12"]


def test_a_checkout_asks_what_its_pyproject_says():
    found = packages.requirements()
    assert {"dicom", "export", "fast-jpeg", "gpu", "test"} <= set(found.extras)
    assert found.install.format("dicom") == "pip install -e '.[dicom]'"
    assert any(line.startswith("tensorflow>=") for line in found.extras[""])


def test_an_installation_asks_what_pip_recorded(tmp_path, monkeypatch):
    (tmp_path / "cxr-0.1.0.dist-info").mkdir()
    (tmp_path / "cxr-0.1.0.dist-info" / "METADATA").write_text(METADATA)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(cxr, "__file__", str(tmp_path / "cxr" / "__init__.py"))
    found = packages.requirements()
    assert found.python == ">=3.11"
    assert found.extras[""] == ["numpy<3,>=2.1"]
    assert found.install.format("dicom") == "pip install 'cxr[dicom]'"
    assert [r.name for r in packages._parsed(found.extras["dicom"], "dicom")] == [
        "pydicom"
    ]
    assert not list(packages._parsed(found.extras["elsewhere"], "elsewhere"))


def test_a_decoder_that_does_not_load_stops(monkeypatch):
    assert [codec.status for codec in packages.codecs()] == ["ok", "ok"]
    monkeypatch.setitem(sys.modules, "simplejpeg", None)
    assert one(packages.codecs(), "simplejpeg").stops


def child(code):
    return [sys.executable, "-c", f"import os, signal, subprocess, sys\n{code}"]


def test_tensorflow_is_asked_in_a_child():
    found = accelerators.ask_tensorflow(60, child("print('noise\\n{\"gpus\": []}')"))
    assert found.found == {"gpus": []}


@pytest.mark.parametrize(
    ("code", "fault"),
    [
        ("os.kill(os.getpid(), signal.SIGSEGV)", "ended by SIGSEGV"),
        ("sys.exit('x\\nlibcuda.so: broken')", "libcuda.so: broken"),
        ("os._exit(3)", "ended with 3"),
        ("print('hello')", "another kind: hello"),
    ],
)
def test_a_child_that_dies_takes_nobody_down(code, fault, monkeypatch):
    monkeypatch.setattr(platforms, "_GPU_DRIVER", ())
    answer = accelerators.ask_tensorflow(60, child(code))
    assert fault in answer.fault
    (found,) = accelerators.tensorflow(answer)
    assert found.stops
    assert fault in found.text


def test_a_child_that_hangs_is_ended():
    """Also where a child of its own keeps what it writes to open."""
    code = (
        "subprocess.Popen([sys.executable, '-c', 'input()'], stdin=subprocess.PIPE)\n"
        "signal.pause()"
    )
    answer = accelerators.ask_tensorflow(0.3, child(code))
    assert answer.late
    (found,) = accelerators.tensorflow(answer)
    assert found.status == "missing"
    assert not found.stops  # it may be slow alone
    assert "no answer within 0.3 s" in found.text


def test_the_child_imports_what_this_process_would(tmp_path, monkeypatch):
    (tmp_path / "tensorflow.py").write_text("raise ImportError('a made-up fault')")
    monkeypatch.syspath_prepend(tmp_path)
    answer = accelerators.ask_tensorflow(60)
    assert answer.fault == "ImportError: a made-up fault"


@pytest.mark.slow
def test_the_real_question_is_answered(monkeypatch):
    answer = accelerators.ask_tensorflow(300)
    assert answer.fault == ""
    assert answer.found["tensorflow"] == importlib.metadata.version("tensorflow")
    assert answer.found["gpus"] == []  # the suite hides them
    fast = platforms.bfloat16_unit()
    assert answer.found["precision"] == ("mixed_bfloat16" if fast else "float32")


def test_no_gpu_is_explained(tmp_path, monkeypatch):
    monkeypatch.setattr(platforms, "_GPU_DRIVER", ())
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    (found,) = accelerators.gpus(ANSWER)
    assert (found.status, found.value) == ("slow", [])
    assert "no NVIDIA driver" in found.text
    monkeypatch.setattr(platforms, "_GPU_DRIVER", (tmp_path,))
    broken = ProbeResult(7.0, {**ANSWER.found, "why_none": "libx.so cannot be loaded"})
    assert "libx.so cannot be loaded" in accelerators.gpus(broken)[0].text
    assert "does not answer" in accelerators.gpus(ProbeResult(1.0, fault="x"))[0].text
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "-1")
    assert "CUDA_VISIBLE_DEVICES=-1 hides" in accelerators.gpus(broken)[0].text
    seen = ProbeResult(7.0, {**ANSWER.found, "gpus": ["H100", "H100"]})
    assert accelerators.gpus(seen)[0].value == ["H100", "H100"]


@pytest.mark.parametrize(
    ("precision", "status"), [("float32", "slow"), ("mixed_bfloat16", "ok")]
)
def test_the_precision_that_auto_takes(precision, status):
    answer = ProbeResult(7.0, {**ANSWER.found, "precision": precision})
    found = one(accelerators.tensorflow(answer), "precision")
    assert (found.status, found.value) == (status, precision)


def test_a_line_each_below_its_group(quick, capsys, tmp_path, versions):
    install_everything(versions)
    assert doctor.main(["doctor", f"--data_dir={tmp_path}"]) == 0
    lines = capsys.readouterr().out.splitlines()
    groups = [line for line in lines if not line.startswith(" ")]
    assert groups[:3] == ["packages", "codecs", "tensorflow"]
    items = [line for line in lines if line.startswith(" ")]
    assert {line.split()[0] for line in items} <= {"ok", "slow:", "missing:"}
    assert len(groups) + len(items) == len(lines) > 25


def test_json_has_stable_keys(quick, capsys, versions):
    install_everything(versions)
    assert doctor.main(["doctor", "--format=json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert list(found) == ["schema", "cxr", "stops", "checks"]
    assert (found["schema"], found["cxr"]) == (1, cxr.__version__)
    names = {group: set(content) for group, content in found["checks"].items()}
    assert {"python", "tensorflow", "numpy", "pillow"} <= names.pop("packages")
    assert {"dicom", "export", "fast-jpeg", "gpu", "test"} <= names.pop("extras")
    assert names == {
        "codecs": {"pillow", "simplejpeg"},
        "tensorflow": {"import", "precision"},
        "gpu": {"names"},
        "cpu": {"system", "cores", "bfloat16_unit"},
        "memory": {"free_bytes"},
        "disk": {"here", "data_dir"},
        "weights": {"imagenet"},
    }
    for content in found["checks"].values():
        for entry in content.values():
            assert list(entry) == ["status", "value", "text"]


def test_what_every_command_needs_decides_the_exit_code(quick, capsys, versions):
    install_everything(versions)
    versions["numpy"] = None
    assert doctor.main(["doctor", "--format=json"]) == cli.EXIT_UNAVAILABLE
    assert json.loads(capsys.readouterr().out)["stops"] == ["packages.numpy"]
    versions |= {"numpy": "2.4.0", "pydicom": None}
    assert doctor.main(["doctor", "--format=json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["checks"]["extras"]["dicom"]["status"] == "missing"


def test_lines_stay_lines():
    text = check.as_text([check.Check("gpu", "names", "slow", 1, "a\nb")])
    assert text == "gpu\n  slow:    a b"
