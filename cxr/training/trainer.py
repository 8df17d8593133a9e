"""Training from records to a finished run folder, resumable at every step."""

import pathlib
import time
from typing import Any

import keras
import tensorflow as tf

from cxr import cli, records, runs
from cxr.config import TrainConfig
from cxr.input import augmenters, pipeline
from cxr.metrics import classification
from cxr.training import (
    builders,
    checkpoints,
    devices,
    feature_cache,
    models,
    pretrained,
    progress,
    publishing,
    schedules,
    signals,
    steps,
)


class Diverged(cli.CommandError):
    """A loss or gradient that is not finite; the weights from before are kept."""


def train(config: TrainConfig, record_set: records.RecordSet) -> runs.Run:
    """Trains, or goes on training, until the run folder is finished.

    Args:
      config: `workdir` must be given.
      record_set: the checked data set (`preflight.open_data`).

    Returns:
      The finished run.

    Raises:
      UsageError: the folder is in use, or holds a run with other flags.
      Diverged: training met a loss that is not finite.
      Interrupted: SIGINT or SIGTERM came; the state is saved.
    """
    workdir = pathlib.Path(config.workdir)
    with runs.lock(workdir), signals.watch() as interruption:
        runs.check_same_run(workdir, config, record_set)
        if finished := runs.finished(workdir, config):
            if not publishing.publish_decision(finished, config, record_set):
                progress.say(f"{workdir} is finished; nothing to do")
                return finished
            progress.say(
                f"{workdir} is finished; its threshold is chosen anew "
                f"(--threshold_rule={config.threshold_rule}), the weights stay"
            )
            return runs.open_run(workdir)
        try:
            Trainer(config, record_set, interruption).fit()
        except tf.errors.ResourceExhaustedError as error:
            raise cli.UnavailableError(
                f"out of memory with --batch_size={config.batch_size} "
                f"--image_size={config.image_size}: try half the batch size"
            ) from error
        return runs.open_run(workdir)


class Trainer:
    """One training run: data, model and position, from the start or a checkpoint.

    Args:
      config: the run's flags.
      record_set: the data set.
      interruption: asked between steps whether to stop.
    """

    def __init__(
        self,
        config: TrainConfig,
        record_set: records.RecordSet,
        interruption: signals.Interruption,
    ):
        self._config, self._record_set = config, record_set
        self._interruption = interruption
        self._workdir = pathlib.Path(config.workdir)
        self._devices = devices.setup(config)
        keras.config.set_dtype_policy(self._devices.precision)
        runs.publish_settings(
            self._workdir,
            config,
            record_set,
            device_names=self._devices.names,
            replicas=self._devices.replicas,
            precision=self._devices.precision,
        )
        self._train = self._open("train")
        self._validation = self._open("validation")
        self._steps_per_epoch = self._train.n // config.batch_size
        self._stages = builders.stages(config)
        self._spec = builders.model_spec(config, record_set.manifest)
        self._objective = builders.objective(config, record_set.manifest)
        with self._devices.strategy.scope():
            self._model = models.build(
                self._spec,
                dropout_seed=config.seed,
                synchronized=self._devices.replicas > 1,
            )
        self._augment = augmenters.build(config.augmentation, seed=config.seed)
        self._position = checkpoints.Position()
        self._states = checkpoints.StateFolder(
            self._workdir, keep=config.keep_checkpoints, best_metric=config.best_metric
        )
        self._log = progress.RunLog(self._workdir, tensorboard=config.tensorboard)
        self._step: steps.TrainingStep | None = None

    def fit(self) -> None:
        """Trains all stages from wherever the run is, then finishes the folder."""
        checkpoint = self._find_checkpoint()
        if checkpoint is None:
            self._load_pretrained()
        self._banner(checkpoint)
        try:
            for index in range(self._position.stage, len(self._stages)):
                self._begin_stage(index, checkpoint)
                checkpoint = None
                self._run_stage()
            publishing.publish(
                self._config,
                self._record_set,
                spec=self._spec,
                best=self._states.best_weights(self._position),
                final=self._model.get_weights(),
                best_epoch=self._states.best_epoch(self._position),
                validation=self._validation,
            )
        except signals.Interrupted:
            if self._step is not None:
                self._save()
            progress.say("saved; the same command goes on from here")
            raise
        except tf.errors.OpError as error:
            # tf.data wraps what our readers raise; a damaged record is a DataError.
            raise self._train.fault or self._validation.fault or error from error

    # --- beginnings

    def _open(self, split: str) -> pipeline.Source:
        config = self._config
        budget = int(config.ram_budget_gib * 2**30) or None
        return pipeline.open_split(
            self._record_set,
            split,
            image_size=config.image_size,
            cache=config.cache,
            ram_budget_bytes=budget,
            progress=config.progress,
        )

    def _load_pretrained(self) -> None:
        if self._spec.name == models.BACKBONE:
            backbone = self._model.get_layer(models.BACKBONE)
            pretrained.load_backbone(backbone, self._config.weights)

    def _find_checkpoint(self) -> checkpoints.Checkpoint | None:
        checkpoint, passed = self._states.newest()
        for line in passed:
            progress.say(f"damaged, passed over: {line}")
        if checkpoint is not None:
            self._position = checkpoints.Position(**checkpoint.state)
        return checkpoint

    def _banner(self, checkpoint: checkpoints.Checkpoint | None) -> None:
        config, position = self._config, self._position
        counts = progress.counts(self._record_set.manifest)
        trained = 4 * 3 * self._model.count_params()  # float32; Adam's two slots
        progress.say(
            f"{config.model} at {config.image_size} px, "
            f"{self._model.count_params():,} parameters, "
            f"{self._devices.precision} on {', '.join(self._devices.names)}"
        )
        progress.say(
            f"{config.dataset}: {counts}; {self._steps_per_epoch} steps of "
            f"{config.batch_size} an epoch; memory for films "
            f"{progress.size(self._resident_bytes())}, for weights and optimizer up to "
            f"{progress.size(trained)}, activations apart"
        )
        if checkpoint is not None:
            progress.say(
                f"resuming at step {position.step} (epoch {len(position.rows) + 1})"
            )

    def _resident_bytes(self) -> int:
        sources = (self._train, self._validation)
        return sum(source.nbytes for source in sources if source.mode == "ram")

    # --- a stage

    def _begin_stage(
        self, index: int, checkpoint: checkpoints.Checkpoint | None
    ) -> None:
        position, stage = self._position, self._stages[index]
        if index != position.stage:
            self._load_best()
            position.stage, position.first_step = index, position.step
        builders.set_trainable(self._model, stage, self._config)
        self._on_features = stage.name == "head" and self._config.feature_cache
        cut = models.head_model if self._on_features else models.logits_model
        with self._devices.strategy.scope():
            self._network = cut(self._model)
            optimizer = builders.make_optimizer(self._config)
        self._step = steps.TrainingStep(
            self._network,
            optimizer,
            self._objective,
            augment=None if self._on_features else self._augment,
            rates=builders.rates(self._config, stage, self._steps_per_epoch),
            first_step=position.first_step,
            step=position.step,
            strategy=self._devices.strategy,
            loss_scaling=self._devices.precision == "mixed_float16",
            jit_compile=self._use_xla(),
            state_of=self._model,
        )
        if checkpoint is not None:
            self._restore(checkpoint)

    def _use_xla(self) -> bool:
        if self._config.jit_compile and self._devices.replicas > 1:
            progress.say("--jit_compile: off, XLA does not compile mirrored steps")
            return False
        return self._config.jit_compile

    def _restore(self, checkpoint: checkpoints.Checkpoint) -> None:
        try:
            self._step.set_state(checkpoint.arrays)
        except ValueError as error:
            raise cli.DataError(
                f"--workdir={self._workdir}: checkpoint {checkpoint.name} does not fit "
                f"these flags: {error}"
            ) from error

    def _load_best(self) -> None:
        """A stage goes on from the best weights of those before."""
        best = self._states.best_weights(self._position)
        with self._devices.strategy.scope():
            self._model.set_weights(best)

    def _run_stage(self) -> None:
        stage = self._stages[self._position.stage]
        if self._stage_is_done(stage):
            return
        source, validation = self._train, self._validation
        if self._on_features:
            source, validation = feature_cache.cache_backbone(
                self._config,
                self._record_set.manifest.fingerprint,
                model=self._model,
                train=self._train,
                validation=self._validation,
                strategy=self._devices.strategy,
                check=self._interruption.check,
            )
        else:
            self._show_films()
        batches = source.training(
            self._config.batch_size, self._config.seed, start_step=self._position.step
        )
        self._iterator = devices.iterate(
            source,
            batches,
            strategy=self._devices.strategy,
            in_graph=self._config.steps_per_execution > 1,
        )
        self._evaluate = steps.BatchMap(
            steps.probabilities(self._network, self._spec.head),
            strategy=self._devices.strategy,
        )
        try:
            while not self._stage_is_done(stage):
                self._run_epoch(stage, validation)
        finally:
            self._iterator = None  # nothing reads ahead of a stage that is over

    def _stage_rows(self) -> list[dict[str, Any]]:
        name = self._stages[self._position.stage].name
        return [row for row in self._position.rows if row["stage"] == name]

    def _stage_is_done(self, stage: builders.Stage) -> bool:
        rows = self._stage_rows()
        patience = self._config.early_stopping_patience
        return len(rows) >= stage.epochs or schedules.should_stop(
            rows, patience=patience
        )

    def _show_films(self) -> None:
        """Puts a few films, as the network sees them, into TensorBoard."""
        if not self._config.tensorboard:
            return
        batches = self._train.training(
            min(8, self._train.n), self._config.seed, start_step=0
        )
        images, _, indices = next(iter(batches))
        step = tf.constant(0, tf.int64)
        self._log.films(self._augment(images, step, indices).numpy())

    # --- an epoch

    def _run_epoch(self, stage: builders.Stage, validation) -> None:
        position, config, step = self._position, self._config, self._step
        rows = self._stage_rows()
        if config.schedule == "plateau":
            step.rate_factor.assign(
                schedules.plateau_factor(rows, patience=config.reduce_lr_patience)
            )
        start = position.first_step + len(rows) * self._steps_per_epoch
        times = self._run_steps(
            f"epoch {len(position.rows) + 1}", end=start + self._steps_per_epoch
        )
        row = {"epoch": len(position.rows) + 1, "stage": stage.name}
        row |= step.read_totals()
        row |= self._validate(validation)
        row["learning_rate"] = step.current_rate()
        position.rows.append(row | times)
        step.reset_totals()
        self._states.save_if_best(position, self._model.get_weights())
        self._save()
        self._log.epoch(position.rows)

    def _run_steps(self, title: str, *, end: int) -> dict[str, float | None]:
        """Runs the steps up to `end`; returns the history's time columns."""
        position, config = self._position, self._config
        bar = progress.EpochProgress(
            title,
            steps=self._steps_per_epoch,
            done=self._steps_per_epoch - (end - position.step),
            batch_size=config.batch_size,
            show=config.progress,
        )
        try:
            while position.step < end:
                count = self._steps_in_one_go(end)
                bar.advance(count, self._execute(count))
                position.step += count
                if position.step % config.log_every_steps == 0:
                    self._check_finite()
                    bar.show(self._step.read_totals())
                every = config.checkpoint_every_steps
                if every and position.step % every == 0:
                    self._save()
                self._interruption.check()
            self._check_finite()
        finally:
            times = bar.close()
        return times

    def _steps_in_one_go(self, end: int) -> int:
        """Steps up to the next moment at which Python has something to do."""
        config, step = self._config, self._position.step
        stops = [end - step, config.log_every_steps - step % config.log_every_steps]
        if every := config.checkpoint_every_steps:
            stops.append(every - step % every)
        return min(config.steps_per_execution, *stops)

    def _execute(self, count: int) -> float | None:
        """Runs steps; returns the seconds spent waiting for input where known."""
        if count > 1:
            self._step.run_many(self._iterator, tf.constant(count))
            return None
        begin = time.perf_counter()
        batch = next(self._iterator)
        waited = time.perf_counter() - begin
        self._step.run(batch)
        return waited

    def _validate(self, validation) -> dict[str, float | None]:
        found = self._evaluate.run(
            validation.evaluation(self._config.batch_size),
            count=validation.n,
            batch_size=self._config.batch_size,
            check=self._interruption.check,
        )
        return {
            "val_loss": classification.log_loss(validation.labels, found),
            "val_accuracy": classification.accuracy(validation.labels, found),
            "val_roc_auc": classification.roc_auc(validation.labels, found),
        }

    def _check_finite(self) -> None:
        bad = int(self._step.first_bad_step.numpy())
        if bad < 0:
            return
        batches = self._train.training(
            self._config.batch_size, self._config.seed, start_step=bad
        )
        _, _, indices = next(iter(batches))
        rows = self._record_set.examples("train")
        names = [rows[index]["filename"] for index in indices.numpy()]
        shown = ", ".join(names[:8]) + (", ..." if len(names) > 8 else "")
        raise Diverged(
            f"step {bad}: the loss or a gradient is not finite; the weights before it "
            f"are in {self._workdir / runs.CHECKPOINTS}\n"
            f"films of that step: {shown}\n"
            f"try a lower --learning_rate (now {self._config.learning_rate:g}), "
            "--warmup_steps, or --precision=float32"
        )

    def _save(self) -> None:
        self._check_finite()
        self._states.save(self._position, self._step.get_state())
