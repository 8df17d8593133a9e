"""Defines the flags of training, each once."""

import dataclasses
import pathlib

from cxr import cli
from cxr.metrics import thresholds
from cxr.optimizers import OPTIMIZERS
from cxr.schedules import LAST, SCHEDULES
from cxr.storage import places

MODELS = ("vgg16", "cnn", "small_cnn")
POLICIES = ("none", "mild", "robust", "strong", "seed", "keras_cv")
NORMALIZATIONS = ("fixed", "film")
PRECISIONS = ("auto", "float32", "mixed_float16", "mixed_bfloat16")
# Blocks of VGG16 and their convolutions (Simonyan and Zisserman 2015, column D).
FINE_TUNE_FROM = (
    "all",
    *(
        f"block{block}_conv{layer + 1}"
        for block, depth in enumerate((2, 2, 3, 3, 3), start=1)
        for layer in range(depth)
    ),
)
PHANTOM = "phantom"  # the data set that is made on the spot

# Fields that may change when a run resumes: they alter where things lie or what is
# shown, never the numbers of a step. The lengths of stages have rules of their own
# (training/resuming.py), and so has the decision of a finished run.
FREE_TO_CHANGE = frozenset(
    {
        "data_dir",
        "workdir",
        "cache",
        "ram_budget_gib",
        "checkpoint_every_steps",
        "keep_checkpoints",
        "log_every_steps",
        "tensorboard",
        "progress",
        "resume",
        "threshold_rule",
        "positive_class",
    }
)


@dataclasses.dataclass(frozen=True)
class TrainConfig:
    """Everything that a training run depends on; one field, one flag."""

    data_dir: str = cli.option(
        "data",
        "root of the converted sets, a folder or URL (s3://BUCKET/PATH)",
        heading="data and run folder",
        remote=True,
    )
    dataset: str = cli.option(
        "chest_xray",
        "name of a converted set, whose highest complete version is used; "
        f"'{PHANTOM}' makes a small synthetic set below --data_dir when missing",
    )
    fold: int = cli.option(
        -1,
        "of a set converted with --folds=K: this fold is test, the next validation, "
        "the rest trains; -1 takes the set's splits",
        lower=-1,
    )
    workdir: str = cli.option(
        "",
        "run folder or URL (default: runs/ + the flagfile's stem); resumes by itself",
        remote=True,
    )
    model: str = cli.option(
        "vgg16",
        "network",
        choices=MODELS,
        heading="model",
    )
    weights: str = cli.option(
        "imagenet",
        "initial backbone weights of vgg16: 'imagenet', 'none', or the path of a "
        "Keras Applications weights file; ignored by the other networks",
    )
    image_size: int = cli.option(
        224,
        "height = width in pixels the model sees; at most the stored size",
        lower=32,
    )
    head: str = cli.option(
        "softmax",
        "output layer: softmax + categorical cross-entropy, or (two classes) one "
        "sigmoid + binary cross-entropy",
        choices=("softmax", "sigmoid"),
    )
    normalization: str = cli.option(
        "fixed",
        "of intensity, inside the model: 'fixed' maps 0..255 alike for all films; "
        "'film' gives every film mean 0 and deviation 1",
        choices=NORMALIZATIONS,
    )
    dropout: float = cli.option(
        0.5, "dropout rate before the last layer", lower=0, upper=0.95
    )
    batch_size: int = cli.option(
        32,
        "examples a step over all replicas together",
        lower=1,
        heading="training",
    )
    epochs: int = cli.option(10, "epochs of the first stage", lower=0)
    learning_rate: float = cli.option(
        1e-3, "peak learning rate of the first stage", lower=0
    )
    optimizer: str = cli.option("adam", "optimizer", choices=tuple(OPTIMIZERS))
    weight_decay: float = cli.option(0.0, "decoupled weight decay (adamw)", lower=0)
    schedule: str = cli.option(
        "plateau",
        "learning rate over time: "
        + "; ".join(f"'{name}' {s.words}" for name, s in SCHEDULES.items()),
        choices=tuple(SCHEDULES),
    )
    warmup_steps: int = cli.option(
        0, "steps of linear warm-up at the start of each stage", lower=0
    )
    label_smoothing: float = cli.option(
        0.0, "share of the target spread over all classes", lower=0, upper=0.5
    )
    debias: float = cli.option(
        0.0,
        "share of what brightness and sharpness alone tell of the class that is added "
        "to the logits in training, so that the network learns the rest; 0 = none",
        lower=0,
        upper=1,
    )
    class_weights: str = cli.option(
        "none",
        "'balanced' weights each class by n / (classes x its count)",
        choices=("none", "balanced"),
    )
    seed: int = cli.option(0, "seed of everything random", lower=0)
    seeds: tuple[str, ...] = cli.option(
        (), "train once per listed seed, into WORKDIR/seed-N, e.g. 0,1,2"
    )
    fine_tune_from: str = cli.option(
        "block5_conv1",
        "second stage: first backbone layer to unfreeze (vgg16); 'all' for all",
        heading="second stage and feature cache (vgg16)",
    )
    fine_tune_epochs: int = cli.option(0, "epochs of the second stage", lower=0)
    fine_tune_learning_rate: float = cli.option(
        1e-5, "peak learning rate of the second stage", lower=0
    )
    feature_cache: bool = cli.option(
        False,
        "first stage: compute the frozen backbone once for each augmented view and "
        "train the head on the stored features",
    )
    feature_views: int = cli.option(
        4, "augmented views of each image in the feature cache", lower=1
    )
    augmentation: str = cli.option(
        "mild",
        "augmentation policy",
        choices=POLICIES,
        heading="augmentation and input",
    )
    cache: str = cli.option(
        "auto",
        "'ram' decodes each split once into memory; 'none' streams the shards; "
        "'hybrid' streams, but keeps what fits the budget; 'auto' takes ram where a "
        "split fits it; 'device' keeps the training split on each GPU",
        choices=("auto", "ram", "none", "hybrid", "device"),
    )
    ram_budget_gib: float = cli.option(
        0.0, "memory for decoded images in GiB; 0 = half of what is free", lower=0
    )
    precision: str = cli.option(
        "auto",
        "compute type; 'auto' = bfloat16 on GPUs of compute capability >= 8.0 and on "
        "CPUs that multiply it (AMX, AVX512-BF16), float16 on GPUs of 7.x, float32 "
        "elsewhere; a resumed run keeps its own",
        choices=PRECISIONS,
        heading="computing",
    )
    strategy: str = cli.option(
        "auto",
        "'mirrored' trains on all GPUs at once; 'auto' does so where there are "
        "several; 'multi_worker' on all workers of TF_CONFIG or SLURM",
        choices=("auto", "none", "mirrored", "multi_worker"),
    )
    virtual_devices: int = cli.option(
        0, "split the CPU into this many devices, to test mirrored training", lower=0
    )
    jit_compile: bool = cli.option(False, "compile the core step with XLA")
    deterministic: bool = cli.option(
        False, "bit-equal repeats on the same machine (slower on GPUs)"
    )
    steps_per_execution: int = cli.option(
        1, "training steps per call from Python", lower=1
    )
    early_stopping_patience: int = cli.option(
        4,
        "epochs without a better validation loss before a stage ends; 0 = never",
        lower=0,
        heading="when a stage ends, which epoch counts",
    )
    reduce_lr_patience: int = cli.option(
        3, "epochs without a better validation loss before the rate falls", lower=1
    )
    best_metric: str = cli.option(
        "val_loss",
        "which epoch's weights become the model; 'last' for a learning rate that ends "
        "at 0, and with --debias, whose validation loss is no guide",
        choices=("val_loss", "val_roc_auc", "val_accuracy", LAST),
    )
    resume: str = cli.option(
        "auto",
        "'auto' continues a run with equal flags; 'force' despite changed flags; "
        "'never' refuses a folder that holds a run",
        choices=("auto", "force", "never"),
        heading="resuming, and what is written and shown",
    )
    checkpoint_every_steps: int = cli.option(
        0,
        "also save within epochs, every this many steps; 0 = epoch ends only",
        lower=0,
    )
    keep_checkpoints: int = cli.option(
        1,
        "newest states that a finished run keeps; while training, three or more",
        lower=1,
    )
    log_every_steps: int = cli.option(
        50, "steps between progress figures and non-finite checks", lower=1
    )
    tensorboard: bool = cli.option(True, "write TensorBoard summaries")
    progress: bool = cli.option(True, "show progress bars")
    positive_class: str = cli.option(
        "",
        "class whose probability thresholds speak of (default: the set's; else of two "
        "classes the one whose name is no word for healthy; else the last)",
        heading="decision",
    )
    threshold_rule: str = cli.option(
        "youden",
        f"how the decision threshold is chosen on validation: "
        f"{', '.join(thresholds.RULES)}; such as sensitivity:0.98",
    )

    @property
    def run_folder(self) -> pathlib.Path:
        """The run folder on this machine; of a URL, its copy."""
        return places.local(self.workdir, places.RUNS)

    def validate(self) -> None:
        """Checks what one field's bounds cannot say; raises UsageError."""
        if self.virtual_devices and self.strategy == "multi_worker":
            raise cli.UsageError(
                f"--virtual_devices={self.virtual_devices}: not with "
                "--strategy=multi_worker, whose workers have one CPU each"
            )
        if self.strategy == "multi_worker" and places.is_remote(self.workdir):
            raise cli.UsageError(
                f"--workdir={self.workdir}: --strategy=multi_worker needs a folder on "
                "a disk that all workers share"
            )
        if self.batch_size % max(self.virtual_devices, 1):
            raise cli.UsageError(
                f"--batch_size={self.batch_size} is not a multiple of "
                f"--virtual_devices={self.virtual_devices}"
            )
        if self.epochs + self.fine_tune_epochs == 0:
            raise cli.UsageError("--epochs=0 --fine_tune_epochs=0: nothing to train")
        if self.model != "vgg16" and (self.fine_tune_epochs or self.feature_cache):
            flag = "fine_tune_epochs" if self.fine_tune_epochs else "feature_cache"
            raise cli.UsageError(
                f"--{flag}: only --model=vgg16 has a backbone to freeze, received "
                f"--model={self.model}"
            )
        if any(not seed.isdigit() for seed in self.seeds):
            raise cli.UsageError(
                f"--seeds={','.join(self.seeds)}: expected whole numbers such as 0,1,2"
            )
        try:
            thresholds.parse_rule(self.threshold_rule)
        except ValueError as error:
            raise cli.UsageError(f"--{error}") from error
        if self.fine_tune_from not in FINE_TUNE_FROM:
            raise cli.UsageError(
                f"--fine_tune_from={self.fine_tune_from}: expected 'all' or a layer "
                f"of vgg16: {', '.join(FINE_TUNE_FROM[1:])}"
            )


def result_fields(config: TrainConfig) -> dict[str, object]:
    """Returns the fields that shape the result: those a resume must not change."""
    return {
        field.name: getattr(config, field.name)
        for field in dataclasses.fields(config)
        if field.name not in FREE_TO_CHANGE
    }
