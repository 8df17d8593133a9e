"""PyTorch: channels last, autocast, Adam fused; eager or by torch.compile."""

import pathlib
import time
from typing import Any

import numpy as np
import torch
from torch import nn

from benchmarks import compute_tasks as tasks
from benchmarks.compute_tasks import Case, Peer, Runner

_VGG16 = ((64, 2), (128, 2), (256, 3), (512, 3), (512, 3))  # width, convolutions
_FROZEN_CONVOLUTIONS = 10  # those before block 5
_HIDDEN = 256
_IMAGENET_BGR_MEANS = (103.939, 116.779, 123.68)
_IMAGE_SUFFIXES = frozenset((".png", ".jpg", ".jpeg", ".bmp"))


def start(threads: int) -> dict[str, Any]:
    """Sets PyTorch's threads; says which version computes on what."""
    torch.set_num_threads(threads)
    device = "CPU"
    if torch.cuda.is_available():
        # As TensorFlow does without being asked: TF32 for float32.
        torch.set_float32_matmul_precision("high")
        torch.backends.cudnn.benchmark = True
        device = torch.cuda.get_device_name(0)
    return {"device": device, "versions": {"torch": torch.__version__}}


def build(case: Case, peer: Peer, work: pathlib.Path, threads: int) -> Runner:
    """Makes a case ready to run."""
    if case.mode == tasks.PRODUCT:
        return _product(peer)
    network = _network(case.network)
    _load_weights(network, work / f"{case.files}.npz")
    network = network.to(_device(), memory_format=torch.channels_last)
    if case.mode == tasks.EPOCHS:
        return _epochs(network, case, work, threads)
    if case.mode == tasks.BLOCK5_MODE:
        _freeze(network)
    images = np.load(work / f"{case.files}-images.npy").transpose(0, 3, 1, 2)
    labels = np.load(work / f"{case.files}-labels.npy").astype(np.int64)
    resident = tuple(torch.from_numpy(x).to(_device()) for x in (images, labels))
    if case.mode == tasks.FORWARD:
        return _forward(network, peer, *resident)
    return _training(network, case, peer, *resident)


def _device() -> str:
    return "cuda" if torch.cuda.is_available() else "cpu"


def _settle() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def _autocast(peer: Peer):
    mixed = peer.precision == "bfloat16"
    return torch.autocast(_device(), dtype=torch.bfloat16, enabled=mixed)


# --- networks, layer by layer as in cxr/training/models.py


class _Normalise(nn.Module):
    """Grey to ImageNet's centred BGR, [B, 1, S, S] to [B, 3, S, S]."""

    def __init__(self):
        super().__init__()
        means = torch.tensor(_IMAGENET_BGR_MEANS).reshape(1, 3, 1, 1)
        self.register_buffer("means", means, persistent=False)

    def forward(self, images):
        return (images - self.means).contiguous(memory_format=torch.channels_last)


class _Rescale(nn.Module):
    """Grey values 0..255 to -1..1."""

    def forward(self, images):
        return images / 127.5 - 1


def _network(name: str) -> nn.Sequential:
    """Builds a network, [B, 1, S, S] in 0..255 to logits [B, 2]."""
    layers = _vgg16() if name == "vgg16" else _small_cnn()
    return nn.Sequential(*layers)


def _vgg16() -> list[nn.Module]:
    layers: list[nn.Module] = [_Normalise()]
    channels = 3
    for width, depth in _VGG16:
        for _ in range(depth):
            layers += [nn.Conv2d(channels, width, 3, padding=1), nn.ReLU(inplace=True)]
            channels = width
        layers.append(nn.MaxPool2d(2))
    layers += [nn.AdaptiveAvgPool2d(1), nn.Flatten()]
    layers += [nn.Linear(channels, _HIDDEN), nn.ReLU(), nn.Dropout(tasks.DROPOUT)]
    return [*layers, nn.Linear(_HIDDEN, tasks.NUM_CLASSES)]


def _small_cnn() -> list[nn.Module]:
    # Keras' `same` with a stride pads right and below.
    layers = [_Rescale(), nn.ZeroPad2d((0, 1, 0, 1))]
    layers += _convolve(1, 24, stride=2, padding=0)
    channels = 24
    for width in (48, 96, 144):
        layers += _convolve(channels, width) + _convolve(width, width)
        layers.append(nn.MaxPool2d(2))
        channels = width
    layers += [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Dropout(tasks.DROPOUT)]
    return [*layers, nn.Linear(channels, tasks.NUM_CLASSES)]


def _convolve(inputs: int, width: int, stride: int = 1, padding: int = 1) -> list:
    return [
        nn.Conv2d(inputs, width, 3, stride, padding, bias=False),
        nn.BatchNorm2d(width, tasks.BATCH_NORM_EPSILON, 1 - tasks.BATCH_NORM_MOMENTUM),
        nn.ReLU(inplace=True),
    ]


def _weights(network: nn.Module) -> list[torch.Tensor]:
    """Returns weights and moving statistics in the order of the layers."""
    state = network.state_dict()
    return [value for name, value in state.items() if "num_batches" not in name]


def _load_weights(network: nn.Module, path: pathlib.Path) -> None:
    """Takes the weights that every peer begins with, in Keras' order and layout."""
    with np.load(path) as stored:
        values = [stored[name] for name in stored.files]
    for target, value in zip(_weights(network), values, strict=True):
        if value.ndim == 4:
            value = value.transpose(3, 2, 0, 1)  # from rows, columns, in, out
        elif value.ndim == 2:
            value = value.T
        target.copy_(torch.from_numpy(np.ascontiguousarray(value)))


def _freeze(network: nn.Module) -> None:
    """Leaves block 5 and the head to train."""
    convolutions = [layer for layer in network if isinstance(layer, nn.Conv2d)]
    for layer in convolutions[:_FROZEN_CONVOLUTIONS]:
        layer.requires_grad_(False)


# --- what is timed


def _product(peer: Peer) -> Runner:
    random = np.random.default_rng(tasks.SEED)
    matrix = random.standard_normal((tasks.PRODUCT_SIDE,) * 2, np.float32)
    tensor = torch.from_numpy(matrix).to(_device(), getattr(torch, peer.precision))
    return Runner(
        lambda count: tasks.timed(lambda: tensor @ tensor, _settle, count), dict
    )


def _forward(network, peer: Peer, images, labels) -> Runner:
    network.eval()
    called = _compiled(network, peer)
    newest: list[torch.Tensor] = []

    def advance() -> None:
        newest[:] = [torch.softmax(called(images).float(), dim=1)]

    def run(count: int) -> float:
        with torch.inference_mode(), _autocast(peer):
            return tasks.timed(advance, _settle, count)

    return Runner(
        run,
        lambda: {"parameters": sum(x.numel() for x in _weights(network))},
        lambda: {"probabilities": newest[0].cpu().numpy().tolist()},
    )


def _compiled(network: nn.Module, peer: Peer):
    return torch.compile(network) if peer.option == tasks.COMPILED else network


def _loss(network: nn.Module, peer: Peer, images, labels) -> float:
    """Returns the loss without dropout, with the batch's own statistics."""
    for layer in network:
        layer.train(not isinstance(layer, nn.Dropout))
    with torch.no_grad(), _autocast(peer):
        logits = network(images).float()
    network.train()
    return float(nn.functional.cross_entropy(logits, labels))


class _Trainer:
    """Steps of Adam.

    Args:
      network: what is trained.
      rate: Adam's.
      peer: in which precision, compiled or not.

    Attributes:
      total: sum of the losses so far, a tensor.
      steps: their number.
    """

    def __init__(self, network: nn.Module, rate: float, peer: Peer):
        self._called, self._peer = _compiled(network.train(), peer), peer
        trained = [x for x in network.parameters() if x.requires_grad]
        self._optimizer = torch.optim.Adam(
            trained, lr=rate, eps=tasks.ADAM_EPSILON, fused=True
        )
        self.total, self.steps = torch.zeros((), device=_device()), 0

    def step(self, images: torch.Tensor, labels: torch.Tensor) -> None:
        """Trains on float32 [B, 1, S, S] and int64 [B]."""
        self._optimizer.zero_grad()
        with _autocast(self._peer):
            logits = self._called(images)
        loss = nn.functional.cross_entropy(logits.float(), labels)
        loss.backward()
        self._optimizer.step()
        self.total += loss.detach()
        self.steps += 1


def _training(network, case: Case, peer: Peer, images, labels) -> Runner:
    trainer = _Trainer(network, tasks.LEARNING_RATES[case.network], peer)

    def facts() -> dict[str, Any]:
        return {
            "parameters": sum(x.numel() for x in _weights(network)),
            "loss": _loss(network, peer, images, labels),
        }

    def run(count: int) -> float:
        return tasks.timed(lambda: trainer.step(images, labels), _settle, count)

    def check() -> dict[str, Any]:
        return {
            "finite": bool(torch.isfinite(trainer.total)),
            "loss": _loss(network, peer, images, labels),
            "steps": trainer.steps,
        }

    return Runner(run, facts, check)


# --- from image files


class _Films(torch.utils.data.Dataset):
    """Class folders of films, decoded by Pillow: float32 [1, S, S] and the class."""

    def __init__(self, folder: pathlib.Path, size: int):
        self._size = size
        names = sorted(path.name for path in folder.iterdir())
        self._films = [
            (str(path), label)
            for label, name in enumerate(names)
            for path in sorted((folder / name).iterdir())
            if path.suffix.lower() in _IMAGE_SUFFIXES
        ]

    def __len__(self) -> int:
        return len(self._films)

    def __getitem__(self, index: int):
        from PIL import Image

        path, label = self._films[index]
        with Image.open(path) as film:
            film.draft("L", (self._size,) * 2)
            grey = np.array(film.convert("L").resize((self._size,) * 2), np.float32)
        return torch.from_numpy(grey)[None], label


def _epochs(network, case: Case, work: pathlib.Path, threads: int) -> Runner:
    """Training from class folders, by a DataLoader with a worker a core."""
    began = time.perf_counter()
    loader = torch.utils.data.DataLoader(
        _Films(work / "films", case.image_size),
        case.batch_size,
        shuffle=True,
        drop_last=True,
        num_workers=threads,
        persistent_workers=True,
        pin_memory=torch.cuda.is_available(),
    )
    peer = Peer("torch", "float32")
    trainer = _Trainer(network, tasks.EPOCH_LEARNING_RATE, peer)
    opening = [time.perf_counter() - began]
    losses: list[float] = []

    def run(epochs: int) -> float:
        began = time.perf_counter()
        trainer.total.zero_()
        for _ in range(epochs):
            for images, labels in loader:
                batch = (x.to(_device(), non_blocking=True) for x in (images, labels))
                trainer.step(*batch)
        _settle()
        losses.append(float(trainer.total) / (len(loader) * epochs))
        return time.perf_counter() - began + (opening.pop() if opening else 0)

    return Runner(
        run,
        lambda: {"parameters": sum(x.numel() for x in _weights(network))},
        lambda: {"losses": losses, "images": len(loader) * case.batch_size},
    )
