"""One worker of `benchmarks.scaling`: times steps of training, and all-reduces.

  python -m benchmarks.scaling_worker DATA_DIR

Alone, or with others where TF_CONFIG names them. Prints one line of JSON.
"""

import json
import os
import statistics
import sys
import time
from collections.abc import Callable

import tensorflow as tf

from cxr import records
from cxr.config import TrainConfig
from cxr.input import augmenters
from cxr.training import builders, cluster, devices, models, signals
from cxr.training.checkpoints import Position
from cxr.training.stage_run import StageRun

# Model, side in pixels, images of a worker, steps timed. VGG16 is trained whole.
CASES = (
    ("small_cnn", 64, 32, 16),
    ("small_cnn", 96, 32, 10),
    ("cnn", 96, 16, 16),
    ("vgg16", 64, 8, 5),
)
_SIZES = tuple(1 << power for power in (12, 16, 20, 22, 24, 26))  # bytes
_REDUCTIONS = 15
_WARM_UP = 3  # steps that compile and fill


def _config(model: str, size: int, images: int, data_dir: str) -> TrainConfig:
    backbone = model == models.BACKBONE
    return TrainConfig(
        data_dir=data_dir,
        dataset="noise",
        model=model,
        weights="none",
        image_size=size,
        batch_size=images,
        precision="float32",
        strategy="multi_worker" if "TF_CONFIG" in os.environ else "none",
        fine_tune_epochs=int(backbone),
        fine_tune_from="all" if backbone else "block5_conv1",
        progress=False,
    )


def _stage(config: TrainConfig, workers: cluster.Workers) -> StageRun:
    record_set = records.find(config.data_dir, config.dataset)
    prepared = devices.setup(config, strategy=workers.strategy)
    train, validation = (
        builders.open_split(config, record_set, split, progress=False)
        for split in ("train", "validation")
    )
    with prepared.strategy.scope():
        model = models.build(
            builders.model_spec(config, record_set.manifest),
            dropout_seed=config.seed,
            synchronized=prepared.replicas > 1,
        )
    run = StageRun(
        config,
        record_set.manifest,
        stage=builders.stages(config)[-1],
        model=model,
        prepared=prepared,
        augment=augmenters.build(config.augmentation, seed=config.seed),
        position=Position(),
        steps_per_epoch=1000,
        workers=workers,
    )
    run.open(train, validation, start_step=0)
    return run


def _median_s(call: Callable[[], object], times: int) -> float:
    seconds = []
    for _ in range(times):
        begin = time.perf_counter()
        call()
        seconds.append(time.perf_counter() - begin)
    return statistics.median(seconds)


def _steps(case: tuple[str, int, int, int], data_dir: str, workers) -> dict:
    """Returns seconds of a step, and what it sums in how many collectives."""
    model, size, images, times = case
    run = _stage(_config(model, size, images * workers.count, data_dir), workers)
    interruption = workers.shared(signals.Interruption())

    def step() -> None:
        run.execute(1)
        run.step.step.numpy()  # waits for its end
        interruption.check()

    for _ in range(_WARM_UP):
        step()
    found = {"model": model, "image_size": size, "images": images}
    found["seconds"] = _median_s(step, times)
    run.close()
    return found | _reduced(run.step._function)


def _reduced(function: tf.types.experimental.PolymorphicFunction) -> dict:
    """Returns the bytes that a step sums over the workers, and the collectives."""
    (graph,) = {f.graph for f in function._list_all_concrete_functions()}
    ops = list(graph.get_operations())
    sizes = [
        op.outputs[0].shape.num_elements() * op.outputs[0].dtype.size
        for op in ops
        if op.type.startswith("CollectiveReduce")
    ]
    return {"reduced_bytes": sum(sizes), "collectives": len(sizes) + 1}  # and our own


def _reductions(strategy: tf.distribute.Strategy) -> list[dict]:
    """Returns the seconds of all-reduces by their bytes."""

    @tf.function
    def reduce(value):
        def one(value):
            context = tf.distribute.get_replica_context()
            with tf.device("CPU:0"):  # where the sum is wanted
                value = tf.identity(value)
            return context.all_reduce(tf.distribute.ReduceOp.SUM, value)

        return strategy.run(one, args=(value,))

    found = []
    for size in _SIZES:
        value = tf.ones([size // 4])
        for _ in range(_WARM_UP):
            reduce(value)
        seconds = _median_s(lambda v=value: reduce(v).numpy(), _REDUCTIONS)
        found.append({"bytes": size, "seconds": seconds})
    return found


def main(data_dir: str) -> None:
    """Times all cases."""
    first = _config(*CASES[0][:3], data_dir)
    with cluster.joined(first) as workers:
        found = {"steps": [_steps(case, data_dir, workers) for case in CASES]}
        if workers.strategy is not None:
            found["reductions"] = _reductions(workers.strategy)
    print(json.dumps(found), flush=True)


if __name__ == "__main__":
    main(sys.argv[1])
