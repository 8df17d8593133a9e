"""Trains from records to a finished run folder, resumable at every step."""

import contextlib
import functools
import shutil
from collections.abc import Iterator, Sequence
from typing import Any

import keras
import tensorflow as tf

from cxr import cli, console, environment, records, runs, schedules
from cxr.config import TrainConfig, result_fields
from cxr.input import augmenters, on_device, pipeline
from cxr.input.shard_check import ShardCheck
from cxr.storage import run_folders
from cxr.training import (
    builders,
    checkpoints,
    cluster,
    debiasing,
    devices,
    feature_cache,
    models,
    pretrained,
    progress,
    publishing,
    resuming,
    signals,
    stale,
    steps,
    train_log,
)
from cxr.training.stage_run import StageRun

_LONG_WARMUP = 0.1  # of a stage's steps; schedules of the literature use less


class Diverged(cli.DataError):
    """A loss or gradient that is not finite; the weights from before are kept.

    No usage error: those are refused before anything begins, and this run, which its
    images and its flags let diverge together, has begun and left its checkpoints.
    """


def train(
    config: TrainConfig, record_set: records.RecordSet, *, said: Sequence[str] = ()
) -> runs.Run:
    """Trains, or goes on training, until the run folder is finished.

    Args:
      config: `workdir` must be given.
      record_set: the checked data set (`preflight.open_data`).
      said: what the command has printed so far, for the run's log.

    Returns:
      The finished run.

    Raises:
      UsageError: the folder is in use, or holds a run with other flags.
      Diverged: training met a loss that is not finite.
      Interrupted: SIGINT or SIGTERM came; the state is saved.
    """
    with cluster.joined(config) as workers:
        data = resuming.data_identity(config, record_set.manifest)
        workers.agree(f"{result_fields(config)} {data.fingerprint}")
        if workers.is_chief:
            return _lead(config, record_set, said, workers)
        if not workers.from_chief(bool):
            mirror = run_folders.RunFolder(config.workdir)
            with signals.watch() as own:
                interruption = workers.shared(own)
                Trainer(config, record_set, interruption, mirror, workers).fit()
    return runs.open_run(config.run_folder)


def _lead(
    config: TrainConfig,
    record_set: records.RecordSet,
    said: Sequence[str],
    workers: cluster.Workers,
) -> runs.Run:
    """Trains as the one worker, or as the chief of several."""
    mirror = run_folders.RunFolder(config.workdir)
    workdir = mirror.folder
    with contextlib.ExitStack() as leading:
        with workers.telling_refusals():
            leading.enter_context(runs.lock(workdir))
            interruption = workers.shared(leading.enter_context(signals.watch()))
            leading.enter_context(mirror.sending())
            runs.settle(workdir)
            decision = resuming.decide(workdir, config, record_set.manifest)
        anew = decision.course is resuming.Course.ANEW
        workers.from_chief(lambda: decision.finished is not None)
        with contextlib.ExitStack() as while_training:
            if not decision.finished:
                goes_on = (workdir / runs.FLAGS).exists() and not anew
                what = "training goes on" if goes_on else "training begins"
                while_training.enter_context(train_log.writing(workdir, what, said))
            for note in decision.notes:
                progress.say(f"note: {note}")
            with _telling_out_of_memory(config):
                if run := decision.finished:
                    _leave_finished(run, config, record_set)
                else:
                    trainer = Trainer(
                        config, record_set, interruption, mirror, workers, anew=anew
                    )
                    trainer.fit()
            run = runs.open_run(workdir)
            _tidy(run, config)
            stale.say(stale.mark(run))
            progress.say_finished(run, config.workdir, latest=_is_latest(run))
        return run


def _leave_finished(
    run: runs.Run, config: TrainConfig, record_set: records.RecordSet
) -> None:
    changed = publishing.publish_decision(run, config, record_set)
    done = "its decision is published anew" if changed else "nothing to do"
    progress.say(f"{config.workdir} is finished; {done}")


def _is_latest(run: runs.Run) -> bool:
    """Whether no training with other flags or data has begun in the folder since."""
    trained = environment.read(run.workdir)
    return run.is_latest and (
        trained is None or trained.data.fingerprint == run.info.data.fingerprint
    )


def _tidy(run: runs.Run, config: TrainConfig) -> None:
    """Removes what a finished run is done with, unless another training has begun."""
    if not _is_latest(run):
        return
    _states(config).finish()
    if config.keep_checkpoints == 1:
        shutil.rmtree(run.workdir / runs.FEATURES, ignore_errors=True)


@contextlib.contextmanager
def _telling_out_of_memory(config: TrainConfig) -> Iterator[None]:
    try:
        yield
    except (tf.errors.OpError, MemoryError) as error:
        if not devices.is_out_of_memory(error):
            raise
        raise cli.UnavailableError(
            f"out of memory with --batch_size={config.batch_size} "
            f"--image_size={config.image_size}: try half the batch size"
        ) from error


def _states(config: TrainConfig, *, writes: bool = True) -> checkpoints.StateFolder:
    return checkpoints.StateFolder(
        config.run_folder,
        keep=config.keep_checkpoints,
        best_metric=config.best_metric,
        writes=writes,
    )


class Trainer:
    """One training run: data, model and position, from the start or a checkpoint.

    Args:
      config: the run's flags.
      record_set: the data set.
      interruption: asked between steps whether to stop.
      mirror: the run folder, sent at each checkpoint where it lies in a bucket.
      workers: who train together; the chief writes the run folder.
      anew: leave what checkpoints there are.
    """

    def __init__(
        self,
        config: TrainConfig,
        record_set: records.RecordSet,
        interruption: signals.Interruption,
        mirror: run_folders.RunFolder,
        workers: cluster.Workers,
        *,
        anew: bool = False,
    ):
        self._config, self._record_set = config, record_set
        self._interruption, self._mirror = interruption, mirror
        self._workers, self._workdir = workers, config.run_folder
        before = None if anew else environment.read(self._workdir)
        recorded = workers.from_chief(lambda: before.precision if before else None)
        self._devices = devices.setup(
            config, recorded=recorded, strategy=workers.strategy
        )
        keras.config.set_dtype_policy(self._devices.precision)
        self._train, self._validation = (
            builders.open_split(config, record_set, split, progress=config.progress)
            for split in ("train", "validation")
        )
        # Whether it lies in memory is this machine's and this moment's; its order is
        # the run's.
        self._train.order = workers.from_chief(
            lambda: (before and before.order) or self._train.order
        )
        trained = environment.describe(
            resuming.data_identity(config, record_set.manifest),
            devices=self._devices.names,
            replicas=self._devices.replicas,
            precision=self._devices.precision,
            order=self._train.order,
        )
        if workers.is_chief:
            resuming.publish_settings(self._workdir, config, trained)
        if anew:
            resuming.begin_anew(self._workdir)
        self._evidence = debiasing.evidence(record_set, config.debias)
        self._steps_per_epoch = self._train.n // config.batch_size
        self._stages = builders.stages(config)
        self._spec = builders.model_spec(config, record_set.manifest)
        with self._devices.strategy.scope():
            self._model = models.build(
                self._spec,
                dropout_seed=config.seed,
                synchronized=self._devices.replicas > 1,
            )
        self._augment = augmenters.build(config.augmentation, seed=config.seed)
        self._drawn_from: feature_cache.AnySource = self._train
        self._position = checkpoints.Position()
        self._states = _states(config, writes=workers.is_chief)
        self._checks: list[ShardCheck] | None = None  # None: not begun
        self._log = progress.RunLog(config) if workers.is_chief else None

    def fit(self) -> None:
        """Trains all stages from wherever the run is, then finishes the folder."""
        checkpoint = self._find_checkpoint()
        if checkpoint is None:
            self._load_pretrained()
        self._banner(checkpoint)
        run: StageRun | None = None
        try:
            for index in range(self._position.stage, len(self._stages)):
                run = self._begin_stage(index, checkpoint)
                checkpoint = None
                self._run_stage(run)
            self._check_shards()
            if not self._workers.is_chief:
                return
            best = self._states.best_epoch(self._position)
            progress.say("writing the model and choosing its threshold ...")
            publishing.publish(
                self._config,
                self._record_set,
                spec=self._spec,
                best=self._states.best_weights(self._position),
                final=self._model.get_weights(),
                best_epoch=best,
                validation=self._validation,
            )
            assert self._log  # the chief's
            self._log.published(self._position.rows[best - 1])
        except signals.Interrupted as stop:
            if run is not None:
                self._save(run.step)
            progress.say("saved; the same command goes on from here")
            raise signals.Interrupted(stop.number, self._position.step) from None
        except tf.errors.OpError as error:
            # tf.data wraps what our readers raise; a damaged record is a DataError.
            raise self._train.fault or self._validation.fault or error from error

    # --- beginnings

    def _load_pretrained(self) -> None:
        if self._spec.name == models.BACKBONE:
            backbone = self._model.get_layer(models.BACKBONE)
            pretrained.load_backbone(backbone, self._config.weights)

    def _find_checkpoint(self) -> checkpoints.Checkpoint | None:
        checkpoint = None
        if self._workers.is_chief:
            checkpoint, passed = self._states.newest()
            for line in passed:
                progress.say(f"damaged, passed over: {line}")
        name = self._workers.from_chief(lambda: checkpoint and checkpoint.name)
        if name and checkpoint is None:
            checkpoint = self._states.named(name)
        if checkpoint is not None:
            self._position = checkpoints.position_of(checkpoint)
        return checkpoint

    def _banner(self, checkpoint: checkpoints.Checkpoint | None) -> None:
        config, position = self._config, self._position
        resident = sum(
            source.nbytes
            for source in (self._train, self._validation)
            if source.mode == "ram"
        )
        parameters = self._model.count_params()
        trained = 4 * 3 * parameters  # float32; Adam's two slots
        progress.say(
            f"{config.model} at {config.image_size} px, {parameters:,} parameters, "
            f"{self._devices.precision} on {', '.join(self._devices.names)}\n"
            f"{config.dataset}: {progress.counts(self._record_set.manifest)}; "
            f"{self._steps_per_epoch} steps of {config.batch_size} an epoch; memory "
            f"for images {progress.size(resident)}, for weights and optimizer up to "
            f"{progress.size(trained)}, activations apart"
        )
        if self._evidence is not None:
            progress.say(
                "--debias: loss and accuracy on validation, at one half, are of the "
                "network alone, and low; its ROC AUC and its own threshold count"
            )
        if len(self._record_set.manifest.class_names) == 2:
            positive = publishing.positive_class(config, self._record_set.manifest)
            progress.say(f"positive class {positive}; --positive_class decides")
        if left := self._train.n % config.batch_size:
            progress.say(
                f"each epoch leaves out {left:,} of {self._train.n:,} films, which "
                "fill no batch, others each time"
            )
        for stage in self._stages:
            steps_in_all = stage.epochs * self._steps_per_epoch
            if config.warmup_steps > steps_in_all * _LONG_WARMUP:
                console.warn(
                    f"--warmup_steps={config.warmup_steps}: more than a tenth of the "
                    f"{steps_in_all} steps of the stage '{stage.name}'"
                )
        if checkpoint is not None:
            progress.say(
                f"resuming at step {position.step} (epoch {len(position.rows) + 1})"
            )

    # --- a stage

    def _begin_stage(
        self, index: int, checkpoint: checkpoints.Checkpoint | None
    ) -> StageRun:
        position = self._position
        if index != position.stage:
            # A stage goes on from the best weights of those before.
            best = self._states.best_weights(position)
            with self._devices.strategy.scope():
                self._model.set_weights(best)
            position.stage, position.first_step = index, position.step
        stage, augment = self._stages[index], self._augment
        on_features = builders.on_features(self._config, stage)
        if not on_features and self._placed:
            augment = self._placed.augmenting(augment)
        run = StageRun(
            self._config,
            self._record_set.manifest,
            stage=stage,
            model=self._model,
            prepared=self._devices,
            augment=augment,
            position=position,
            steps_per_epoch=self._steps_per_epoch,
            evidence=self._evidence,
            workers=self._workers,
        )
        if checkpoint is not None:
            self._restore(run.step, checkpoint)
        return run

    def _restore(
        self, step: steps.TrainingStep, checkpoint: checkpoints.Checkpoint
    ) -> None:
        try:
            step.set_state(checkpoint.arrays)
        except ValueError as error:
            raise cli.DataError(
                f"--workdir={self._workdir}: checkpoint {checkpoint.name} does not fit "
                f"these flags: {error}"
            ) from error
        if self._workers.is_chief and self._states.lacks_best(self._position):
            found = publishing.published_weights(
                self._workdir, self._model.get_weights()
            )
            if found:
                self._states.save_best(*found)

    def _run_stage(self, run: StageRun) -> None:
        if self._stage_is_done(run.stage):
            return
        validation: pipeline.ImageSource | feature_cache.FeatureSource
        if run.on_features:
            cache = feature_cache.FeatureCache(
                self._config,
                self._record_set.manifest.fingerprint,
                self._model,
                strategy=self._devices.strategy,
                check=self._interruption.check,
                workers=self._workers,
            )
            self._check_shards()  # features are kept, and must be these images'
            self._drawn_from, validation = cache.both(self._train, self._validation)
        else:
            self._drawn_from = self._placed or self._train
            validation = self._validation
            self._show_augmented()
        run.open(self._drawn_from, validation, start_step=self._position.step)
        progress.say("compiling the first step ...")
        try:
            while not self._stage_is_done(run.stage):
                self._run_epoch(run)
        finally:
            run.close()

    @functools.cached_property
    def _placed(self) -> on_device.OnDevice | None:
        """The training split in the memory of the devices, where flags ask for it."""
        if self._config.cache != "device":
            return None
        names = devices.training_devices(self._devices.strategy)
        return on_device.OnDevice(self._train, names)

    def _stage_rows(self) -> list[dict[str, Any]]:
        name = self._stages[self._position.stage].name
        return [row for row in self._position.rows if row["stage"] == name]

    def _stage_is_done(self, stage: builders.Stage) -> bool:
        rows = self._stage_rows()
        patience = self._config.early_stopping_patience
        return len(rows) >= stage.epochs or schedules.should_stop(
            rows, patience=patience
        )

    def _show_augmented(self) -> None:
        """Puts a few images, as the network sees them, into TensorBoard."""
        if not self._config.tensorboard or self._log is None:
            return
        batches = self._train.training(
            min(8, self._train.n), self._config.seed, start_step=0
        )
        images, _, indices = next(iter(batches))
        step = tf.constant(0, tf.int64)
        self._log.images(self._augment(images, step, indices).numpy())

    # --- an epoch

    def _run_epoch(self, run: StageRun) -> None:
        position, config, step = self._position, self._config, run.step
        rows = self._stage_rows()
        if config.schedule == "plateau":
            step.rate_factor.assign(
                schedules.plateau_factor(rows, patience=config.reduce_lr_patience)
            )
        self._begin_shard_check()
        start = position.first_step + len(rows) * self._steps_per_epoch
        times = self._run_steps(run, end=start + self._steps_per_epoch)
        self._check_shards()
        row = {"epoch": len(position.rows) + 1, "stage": run.stage.name}
        row |= step.read_totals()
        row |= run.validate(self._interruption)
        row["learning_rate"] = step.current_rate()
        position.rows.append(row | times)
        step.reset_totals()
        self._states.save_if_best(position, self._model.get_weights)
        self._save(step)
        if self._log:
            self._log.epoch(position.rows)
        self._mirror.try_sending()

    def _run_steps(self, run: StageRun, *, end: int) -> dict[str, float | None]:
        """Runs the steps up to `end`; returns the history's time columns."""
        position, config = self._position, self._config
        bar = progress.EpochProgress(
            f"epoch {len(position.rows) + 1}",
            steps=self._steps_per_epoch,
            done=self._steps_per_epoch - (end - position.step),
            batch_size=config.batch_size,
            show=config.progress and self._workers.is_chief,
        )
        try:
            while position.step < end:
                count = self._steps_in_one_go(end)
                bar.advance(count, run.execute(count))
                position.step += count
                if position.step % config.log_every_steps == 0:
                    self._check_finite(run.step)
                    totals = run.step.read_totals()
                    bar.show(totals)
                    if self._log:
                        self._log.step(
                            position.step,
                            totals,
                            rate=run.step.current_rate(),
                            images_per_sec=bar.images_per_sec(),
                        )
                every = config.checkpoint_every_steps
                if every and position.step % every == 0:
                    self._save(run.step)
                    self._mirror.try_sending()
                self._interruption.check()
            self._check_finite(run.step)
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

    def _check_finite(self, step: steps.TrainingStep) -> None:
        bad = int(step.first_bad_step.numpy())
        if bad < 0:
            return
        batches = self._drawn_from.training(
            self._config.batch_size, self._config.seed, start_step=bad
        )
        _, _, indices = next(iter(batches))
        rows = self._record_set.examples("train")
        names = [rows[index]["filename"] for index in indices.numpy()]
        shown = ", ".join(names[:8]) + (", ..." if len(names) > 8 else "")
        raise Diverged(
            f"step {bad}: the loss or a gradient is not finite; the weights before it "
            f"are in {self._workdir / runs.CHECKPOINTS}\n"
            f"images of that step: {shown}\n"
            f"try a lower --learning_rate (now {self._config.learning_rate:g}), "
            "--warmup_steps, or --precision=float32"
        )

    def _begin_shard_check(self) -> None:
        """Begins it beside the first epoch of this process, which reads every shard."""
        if self._checks is None:
            sources = (self._train, self._validation)
            self._checks = [source.check_shards() for source in sources]

    def _check_shards(self) -> None:
        """Returns when the images trained on are known to be the manifest's."""
        self._begin_shard_check()
        while self._checks:
            self._checks.pop().wait()

    def _save(self, step: steps.TrainingStep) -> None:
        self._check_shards()
        self._check_finite(step)
        self._states.save(self._position, step.get_state())
