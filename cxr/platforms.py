"""Hides what differs between operating systems: cores, memory, reads, locks.

Linux is what the project is measured on; elsewhere each function does what the
system offers, or nothing where it only makes things faster.
"""

import contextlib
import ctypes
import errno
import functools
import importlib.util
import os
import pathlib
import platform
import sys
import threading
from collections.abc import Iterator
from typing import Any

# Of the first two each system has one; Python for the web has neither.
fcntl: Any = None
msvcrt: Any = None
resource: Any = None  # not of Windows
with contextlib.suppress(ImportError):
    import fcntl
with contextlib.suppress(ImportError):
    import msvcrt
with contextlib.suppress(ImportError):
    import resource

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # glibc's malloc.h
_LARGEST_MMAP_THRESHOLD = 32 << 20  # 32 MiB: glibc refuses more
_MEMORY, _CPUS = pathlib.Path("/proc/meminfo"), pathlib.Path("/proc/cpuinfo")
_OWN_MEMORY = pathlib.Path("/proc/self/statm")
_GPU_DRIVER = (
    pathlib.Path("/dev/nvidiactl"),
    pathlib.Path("/dev/dxg"),  # Windows' Linux
    pathlib.Path("/proc/driver/nvidia/version"),
)
# What TensorFlow 2.21 opens before it registers a GPU: pip package to library.
_CUDA_LIBRARIES = {
    "cuda_runtime": "libcudart.so.12",
    "cublas": "libcublas.so.12",
    "cufft": "libcufft.so.11",
    "cusparse": "libcusparse.so.12",
    "cusolver": "libcusolver.so.11",
    "cudnn": "libcudnn.so.9",
}
_BYTES_UNKNOWN = 4 << 30  # 4 GiB: assumed where the system does not tell
_LOCKED_BYTE = 1 << 30  # Windows locks bytes, and then nobody else may read them
_seeking = threading.Lock()


def available_cores() -> int:
    """Returns the cores this process may use, which containers often limit."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def free_memory_bytes() -> int:
    """Returns the memory this process may still take, its container's limit seen."""
    try:
        text = _MEMORY.read_text()
    except OSError:
        return _BYTES_UNKNOWN
    fields = dict(line.split(":") for line in text.splitlines())
    free = int(fields["MemAvailable"].split()[0]) << 10  # kB
    control_group = pathlib.Path("/sys/fs/cgroup")
    with contextlib.suppress(OSError, ValueError):  # no cgroup v2, or "max"
        limit = int((control_group / "memory.max").read_text())
        used = int((control_group / "memory.current").read_text())
        free = min(free, limit - used)
    return max(0, free)


def total_memory_bytes() -> int:
    """Returns the memory of this machine."""
    with contextlib.suppress(AttributeError, ValueError, OSError):
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return _BYTES_UNKNOWN


def resident_bytes() -> int:
    """Returns the memory of this process now; where that is not told, its peak."""
    with contextlib.suppress(OSError):
        return int(_OWN_MEMORY.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    return peak_resident_bytes()


def peak_resident_bytes() -> int:
    """Returns the most memory that this process ever had; 0 where nobody tells."""
    if resource is None:
        return 0
    most: int = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return most if sys.platform == "darwin" else most << 10  # elsewhere in KiB


def load_average() -> float:
    """Returns the processes that waited or ran in the last minute; 0 if not told."""
    return os.getloadavg()[0] if hasattr(os, "getloadavg") else 0.0


@functools.cache
def bfloat16_unit() -> str | None:
    """Returns what multiplies bfloat16 in this CPU, None where nothing is known to.

    `AMX` has tiles of its own (Intel, from 2023); `AVX512-BF16` shares the vector units
    of float32 and does twice as many products (AMD Zen 4, Intel Cooper Lake, later).
    """
    try:
        text = _CPUS.read_text()
    except OSError:
        return None
    flags = text.partition("\nflags")[2].partition("\n")[0].split()
    units = {"amx_bf16": "AMX", "avx512_bf16": "AVX512-BF16"}
    return next((name for flag, name in units.items() if flag in flags), None)


def configure_process() -> None:
    """Makes the settings of a whole process that our commands want.

    For commands alone: a library leaves these to the program that imports it.
    """
    _use_one_blas_thread()
    keep_freed_memory()
    _prepare_gpu()


def has_gpu_driver() -> bool:
    """Whether NVIDIA's driver is loaded, be there a GPU that TensorFlow sees or not."""
    return any(path.exists() for path in _GPU_DRIVER)


def why_no_gpu() -> str:
    """Says, where the driver is there, why TensorFlow may see no GPU; else nothing."""
    hidden = os.environ.get("CUDA_VISIBLE_DEVICES")
    if not has_gpu_driver() or hidden in ("", "-1"):
        return ""
    for name, library in _CUDA_LIBRARIES.items():
        try:
            ctypes.CDLL(str(_bundled(name, library) or library))
        except OSError as error:
            return f"{library} cannot be loaded ({error}); install cxr[gpu]"
    return "its CUDA libraries load: see what nvidia-smi says of driver and GPUs"


def _prepare_gpu() -> None:
    """Loads what TensorFlow 2.21 looks for in the wrong folder; takes memory as needed.

    Its wheel's loader lacks the folder of libcusolver, without which it registers no
    GPU and says so only to developers (pull request 112973 of its repository).
    """
    if not has_gpu_driver():
        return
    # Not all of the card: an evaluation runs beside a training.
    os.environ.setdefault("TF_FORCE_GPU_ALLOW_GROWTH", "true")
    if path := _bundled("cusolver", _CUDA_LIBRARIES["cusolver"]):
        with contextlib.suppress(OSError):  # told where no GPU is seen
            ctypes.CDLL(str(path))


def _bundled(package: str, library: str) -> pathlib.Path | None:
    """Returns a CUDA library that came with pip, None where there is none."""
    with contextlib.suppress(ImportError, ValueError):
        found = importlib.util.find_spec(f"nvidia.{package}")
        for folder in (found and found.submodule_search_locations) or ():
            path = pathlib.Path(folder, "lib", library)
            if path.exists():
                return path
    return None


def _use_one_blas_thread() -> None:
    """Gives OpenBLAS one thread, unless the environment says how many.

    Our numpy matrix products are small and run inside threads of ours; OpenBLAS's own
    threads would wait for them by spinning, beside TensorFlow's: an evaluation took 3
    to 5 times the CPU time on 2 cores.
    """
    if "OPENBLAS_NUM_THREADS" in os.environ:
        return
    os.environ["OPENBLAS_NUM_THREADS"] = "1"  # read when scipy's copy is loaded
    if "numpy" in sys.modules:  # which has read it
        import threadpoolctl

        threadpoolctl.threadpool_limits(1, user_api="blas")


@functools.cache
def _blas_libraries() -> Any:
    import threadpoolctl

    try:
        return threadpoolctl.ThreadpoolController().select(user_api="blas")
    except OSError:  # no /proc to look for them in
        return None


@contextlib.contextmanager
def one_blas_thread() -> Iterator[None]:
    """Keeps numpy's matrix products inside to one thread, for a library of ours.

    As `configure_process` does for a command: OpenBLAS's threads spin after a product,
    on the cores that TensorFlow wants next. Predicting films from Python took 8 ms of
    CPU time a film with them, 5 without.
    """
    libraries = _blas_libraries()
    with libraries.limit(limits=1) if libraries else contextlib.nullcontext():
        yield


def keep_freed_memory() -> None:
    """Asks glibc's malloc to reuse freed batches, not to return them to the kernel.

    A batch of megabytes is otherwise mapped, page-faulted and unmapped each time.
    """
    with contextlib.suppress(AttributeError, OSError, TypeError):  # no glibc
        mallopt = ctypes.CDLL(None).mallopt
        mallopt(_M_MMAP_THRESHOLD, _LARGEST_MMAP_THRESHOLD)
        mallopt(_M_TRIM_THRESHOLD, 2**31 - 1)


def return_freed_memory() -> None:
    """Gives what malloc keeps for later back to the kernel, where it is glibc's.

    It keeps a share for each thread: four that decoded a large image one after the
    other would hold four times its memory.
    """
    with contextlib.suppress(AttributeError, OSError, TypeError):  # no glibc
        ctypes.CDLL(None).malloc_trim(0)


def read_at(descriptor: int, offset: int, length: int) -> bytes:
    """Reads from a file at an offset; threads may read the same file."""
    if hasattr(os, "pread"):
        return os.pread(descriptor, length, offset)
    with _seeking:
        os.lseek(descriptor, offset, os.SEEK_SET)
        return os.read(descriptor, length)


def will_read(descriptor: int, offset: int, length: int) -> None:
    """Tells the system that a part of a file is read soon."""
    if hasattr(os, "posix_fadvise"):
        os.posix_fadvise(descriptor, offset, length, os.POSIX_FADV_WILLNEED)


def fsync(path: str | os.PathLike) -> None:
    """Flushes a file's bytes, or a folder's entries, to the disk.

    Windows flushes only what is open for writing, and no folders.

    Raises:
      OSError: the disk failed, or the file system cannot.
    """
    flags = os.O_RDONLY
    if sys.platform == "win32":
        if os.path.isdir(path):
            return
        flags = os.O_RDWR
    descriptor = os.open(path, flags)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def try_lock(descriptor: int) -> bool:
    """Locks an open file until it is closed; False where another process has it.

    The system drops the lock when its process ends, however it ends.

    Raises:
      OSError: the file system has no locks, among others.
    """
    try:
        if msvcrt:
            os.lseek(descriptor, _LOCKED_BYTE, os.SEEK_SET)
            msvcrt.locking(descriptor, msvcrt.LK_NBLCK, 1)
        elif fcntl:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        else:
            raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))
    except (BlockingIOError, PermissionError):
        return False
    return True


def process_exists(pid: int) -> bool:
    """Whether a process of this host has that number; True where nobody can tell."""
    if sys.platform == "win32":  # where os.kill would end it
        return True
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:  # somebody else's
        return True
    except OverflowError:  # no system counts that far
        return False
    return True


def processor_name() -> str:
    """Returns the processor as its maker calls it, where the system tells."""
    with contextlib.suppress(OSError):
        for line in _CPUS.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()
