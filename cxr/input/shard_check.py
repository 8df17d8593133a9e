"""Checks the shards' SHA-256 in a thread, beside the first epoch or an evaluation."""

import threading

from cxr.input.reader import Reader


class ShardCheck:
    """Reads the shards of a split once more, whole, while they are trained on.

    One thread that hashes outside Python's lock: 0.8 GB/s or more, of files that the
    first epoch brings into the page cache.
    """

    def __init__(self, reader: Reader):
        """Begins.

        Args:
          reader: of the split.
        """
        self._reader = reader
        self._failure: Exception | None = None
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def wait(self) -> None:
        """Returns when all shards were found to be the manifest's.

        Raises:
          DataError: naming one that is not.
        """
        self._thread.join()
        if self._failure:
            raise self._failure

    def _run(self) -> None:
        try:
            self._reader.check_shards(threading.main_thread().is_alive)
        except Exception as error:  # handed to whoever waits
            self._failure = error
