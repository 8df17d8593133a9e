"""Runs a conversion's jobs as Apache Beam transforms: the one room of Beam.

The plan stands in this process. A job is a pure function of its input that publishes
a file, and so may run anywhere that sees the films and the set's folder, which a
distributed runner's workers must share with this process.
"""

import contextlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

from cxr import cli


class BeamWorkers:
    """Runs functions over jobs in a pipeline; has `workers.WorkerPool`' interface.

    Args:
      options: of the pipeline, such as `--runner=FlinkRunner`.

    Raises:
      UnavailableError: Beam is not installed.
      UsageError: Beam refuses the options.
    """

    def __init__(self, options: Sequence[str]):
        try:
            import apache_beam  # late: an extra, and seconds
            from apache_beam.options import pipeline_options
        except ImportError as error:
            raise cli.UnavailableError(
                f"--runner=beam: needs the extra 'beam' (pip install 'cxr[beam]'): "
                f"{error}"
            ) from error
        self._beam = apache_beam
        try:
            self._options = pipeline_options.PipelineOptions(list(options))
            self._options.get_all_options()
        except (SystemExit, ValueError) as error:
            raise cli.UsageError(
                f"--beam_options={','.join(options)}: refused by Beam"
            ) from error

    def map(self, function: Callable[[Any], Any], jobs: Iterable) -> Iterator[Any]:
        """Yields the results in the order of the jobs, after all are done.

        Args:
          function: finds a job that is done already, and then only says its result.
          jobs: all of them.

        Raises:
          UnavailableError: the pipeline failed.
        """
        jobs = list(jobs)
        if not jobs:
            return
        beam = self._beam
        try:
            with beam.Pipeline(options=self._options) as pipeline:
                _ = (
                    pipeline
                    | "Jobs" >> beam.Create(jobs)
                    | "Spread" >> beam.Reshuffle()
                    | "Run" >> beam.Map(function)
                )
        except cli.CommandError:
            raise
        except Exception as error:  # each runner has its own
            reason = " ".join(str(error).split())[:300] or type(error).__name__
            raise cli.UnavailableError(
                f"--runner=beam: the pipeline failed: {reason}\nrepeat the command: it "
                "goes on from what is complete"
            ) from error
        # Read back here: that the files are seen by this process is checked with it.
        yield from map(function, jobs)


@contextlib.contextmanager
def started(options: Sequence[str]) -> Iterator[BeamWorkers]:
    """Yields workers that are a pipeline of these options."""
    yield BeamWorkers(options)
