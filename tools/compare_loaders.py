"""Runs other input pipelines on the same films beside ours, in turn."""

from benchmarks import loader_speed
from cxr import cli

if __name__ == "__main__":
    cli.run(loader_speed.main)
