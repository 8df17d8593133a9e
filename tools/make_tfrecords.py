"""Image folders to sharded TFRecords: `python -m tools.make_tfrecords --help`."""

from cxr import cli
from cxr.conversion import converter

USAGE = """
Converts image folders to sharded TFRecords, split by patient and checked:

  python -m tools.make_tfrecords --input_dir=FOLDER [--output_dir=data]

The set goes to OUTPUT_DIR/DATASET/VERSION/ with quarantine.csv and report.html. The
same command after an interruption goes on where it stopped.
"""


def main(argv: list[str]) -> int:
    """Parses the flags and converts."""
    config, positional = cli.parse(argv, converter.ConversionConfig, usage=USAGE)
    cli.reject_positional(positional)
    converter.convert(config)
    return 0


if __name__ == "__main__":
    cli.run(main)
