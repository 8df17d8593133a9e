"""cxr: fast, honest training of chest X-ray classifiers from TFRecords."""

import os

# Our numpy matrix products are small and run inside threads of ours; OpenBLAS's own
# threads would wait for them by spinning, beside TensorFlow's: an evaluation took 3
# to 5 times the CPU time on 2 cores. Only read when numpy is first imported.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

__version__ = "0.1.0"
