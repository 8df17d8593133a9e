"""cxr.training.devices: precision by what multiplies it, GPUs that are used."""

import dataclasses
import types

import pytest
import tensorflow as tf

from cxr import platforms
from cxr.config import TrainConfig
from cxr.training import devices

CPUINFO = "processor : 0\nflags\t\t: fpu sse {}\nbugs\t:\n\nprocessor : 1\n"


@pytest.mark.parametrize(
    ("flags", "unit", "precision"),
    [
        ("avx2", None, "float32"),
        ("avx512f avx512_bf16", "AVX512-BF16", "mixed_bfloat16"),
        ("avx512_bf16 amx_bf16 amx_tile", "AMX", "mixed_bfloat16"),
    ],
)
def test_cpus_compute_in_what_they_multiply(
    flags, unit, precision, tmp_path, monkeypatch
):
    (tmp_path / "cpuinfo").write_text(CPUINFO.format(flags))
    monkeypatch.setattr(platforms, "_CPUS", tmp_path / "cpuinfo")
    monkeypatch.setattr(platforms, "bfloat16_unit", platforms.bfloat16_unit.__wrapped__)
    assert platforms.bfloat16_unit() == unit
    assert devices._best_precision([]) == precision
    found = devices.setup(TrainConfig(strategy="none"))
    assert found.precision == precision
    assert found.names == (f"CPU with {unit}" if unit else "CPU",)


def test_a_system_that_does_not_tell_computes_in_float32(tmp_path, monkeypatch):
    monkeypatch.setattr(platforms, "_CPUS", tmp_path / "nowhere")
    assert platforms.bfloat16_unit.__wrapped__() is None


@pytest.mark.parametrize("recorded", ["float32", "mixed_bfloat16"])
def test_a_resumed_run_keeps_its_precision(recorded):
    auto = TrainConfig(precision="auto")
    assert devices.setup(auto, recorded=recorded).precision == recorded
    asked = dataclasses.replace(auto, precision="mixed_float16")
    assert devices.setup(asked, recorded=recorded).precision == "mixed_float16"


@pytest.mark.parametrize(
    ("capability", "precision"),
    [((6, 1), "float32"), ((7, 5), "mixed_float16"), ((9, 0), "mixed_bfloat16")],
)
def test_gpus_compute_in_what_they_multiply(capability, precision, monkeypatch):
    monkeypatch.setattr(devices, "_capability", lambda gpu: capability)
    assert devices._best_precision(["GPU"]) == precision


@pytest.mark.parametrize(
    ("options", "used"),
    [
        ({}, ["GPU:0", "GPU:1"]),
        ({"strategy": "none"}, ["GPU:0"]),
        ({"virtual_devices": 2}, []),
    ],
)
def test_gpus_that_do_not_train_are_left_to_others(options, used, monkeypatch, capsys):
    visible, grown = [], []
    experimental = types.SimpleNamespace(
        set_memory_growth=lambda gpu, on: grown.append(gpu)
    )
    config = types.SimpleNamespace(
        list_physical_devices=lambda kind: ["GPU:0", "GPU:1"],
        set_visible_devices=lambda gpus, kind: visible.append(gpus),
        experimental=experimental,
    )
    monkeypatch.setattr(devices.tf, "config", config)
    monkeypatch.setattr(devices, "_capability", lambda gpu: (12, 0))
    assert devices._use_gpus(TrainConfig(**options)) == used
    assert visible == ([used] if len(used) < 2 else [])
    assert grown == used
    assert ("the first steps compile" in capsys.readouterr().err) == bool(used)


@pytest.mark.parametrize(
    ("error", "found"),
    [
        (tf.errors.ResourceExhaustedError(None, None, "OOM when allocating"), True),
        (tf.errors.InternalError(None, None, "CUDA_ERROR_OUT_OF_MEMORY: out"), True),
        (tf.errors.UnknownError(None, None, "CUDNN_STATUS_ALLOC_FAILED"), True),
        (MemoryError(), True),
        (tf.errors.InternalError(None, None, "no kernel image"), False),
        (tf.errors.InvalidArgumentError(None, None, "out of memory"), False),
    ],
)
def test_memory_that_ran_out_is_known_by_any_name(error, found):
    assert devices.is_out_of_memory(error) == found


def test_a_driver_without_a_gpu_is_explained(monkeypatch, tmp_path, capsys):
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setattr(platforms, "_GPU_DRIVER", (tmp_path,))
    monkeypatch.setattr(platforms, "_CUDA_LIBRARIES", {"no": "libnothing.so.12"})
    assert devices._use_gpus(TrainConfig()) == []
    told = capsys.readouterr().err
    assert "TensorFlow sees no GPU: libnothing.so.12 cannot be loaded" in told
    monkeypatch.setattr(platforms, "_CUDA_LIBRARIES", {})
    assert "nvidia-smi" in platforms.why_no_gpu()
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "-1")  # hidden on purpose
    assert platforms.why_no_gpu() == ""
