"""A run's model, or several runs', as a library: predicts films of any kind.

The command and Python share it, so a film has one answer: the same chain of pixels, the
same decision, the same warnings.
"""

import os
from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from cxr import images, input_guard, platforms, runs
from cxr.conversion import patients
from cxr.prediction import inputs, rows, together
from cxr.prediction.inputs import Item, ReadImage
from cxr.prediction.rows import Prediction

if TYPE_CHECKING:
    from cxr.prediction.gradcam import GradCam
    from cxr.prediction.predictor import Predictor

_BATCH = 32


class Model:
    """A trained model, or the mean of several, with what its answers mean.

    Attributes:
      run: the finished run; of several the first.
      meaning: of the probabilities.
      class_names: the classes, in the order of the probabilities.
      positive_class: the class that the threshold speaks of.
      threshold: positive from this probability on; None of more than two classes.
    """

    def __init__(self, run: runs.Run, *others: runs.Run, precision: str = "float32"):
        """Loads the model.

        Args:
          run: the finished run.
          *others: more runs, whose probabilities are averaged with the first's. Its
            guard tells films unlike those of training.
          precision: Keras dtype policy to compute in; float32 is what was judged.

        Raises:
          DataError: the runs do not go together, see `together.meaning`.
        """
        from cxr.prediction.predictor import load_predictor  # TensorFlow: late

        self.run = run
        self.meaning = together.meaning((run, *others))
        self._predictors = [
            load_predictor(one, precision=precision) for one in (run, *others)
        ]
        self._guard = run.read_guard()
        self._patient_of = patients.parser("")
        self._explainer: GradCam | None = None

    @property
    def class_names(self) -> tuple[str, ...]:
        """The classes, in the order of the probabilities."""
        return self.meaning.class_names

    @property
    def positive_class(self) -> str:
        """The class that the threshold speaks of."""
        return self.meaning.positive_class

    @property
    def threshold(self) -> float | None:
        """Positive from this probability on; None of more than two classes."""
        return self.meaning.threshold

    def predict(
        self, items: Item | Iterable[Item], *, batch_size: int = _BATCH
    ) -> list[Prediction]:
        """Predicts films, in order; a film that cannot be read says so in its status.

        Args:
          items: paths, bytes of image files, PIL images, arrays (uint8 or uint16
            [H, W], uint8 [H, W, 3]) or pydicom datasets; or one of them.
          batch_size: films a forward pass.
        """
        several: Any = [items] if inputs.is_item(items) else items
        if isinstance(several, Sequence):
            # Batches are padded to one size. A power of two: few sizes to compile for.
            enough = 1 << max(len(several) - 1, 0).bit_length()
            batch_size = min(batch_size, enough)
        return list(self.predict_each(several, batch_size=batch_size))

    def predict_each(
        self, items: Iterable[Item], *, batch_size: int = _BATCH, threads: int = 0
    ) -> Iterator[Prediction]:
        """Yields the predictions as they come; memory does not grow with the films.

        Args:
          items: as `predict`'s.
          batch_size: films a forward pass.
          threads: that decode; 0 = one a core.
        """
        for batch in self.read(items, batch_size=batch_size, threads=threads):
            yield from self.decide(batch, batch_size=batch_size)

    def read(
        self, items: Iterable[Item], *, batch_size: int = _BATCH, threads: int = 0
    ) -> Iterator[list[ReadImage]]:
        """Yields batches of films as read; the next is being read meanwhile."""
        return inputs.read_batches(items, self._sizes, batch_size, threads)

    @property
    def _sizes(self) -> tuple[int, int]:
        """At which a film is decoded, and the largest that a network takes."""
        sizes = [predictor.image_size for predictor in self._predictors]
        return self._predictors[0].stored_image_size, max(sizes)

    @platforms.one_blas_thread()
    def decide(
        self, batch: Sequence[ReadImage], *, batch_size: int = _BATCH
    ) -> list[Prediction]:
        """Returns what the model says of films that were read, in one forward pass."""
        readable = [image.grey for image in batch if image.grey is not None]
        unlike = iter([""] * len(readable))
        predicted: Iterator[np.ndarray] = iter(())
        if readable:
            greys = np.stack(readable)
            each = [self._probabilities(p, greys, batch_size) for p in self._predictors]
            predicted = iter(together.mean(each))
            if self._guard:
                unlike = iter(self._guard.judge_films(greys))
        found = []
        for image in batch:
            status = image.status
            probabilities: np.ndarray | None = None
            if image.grey is not None:
                probabilities = next(predicted)
                status = input_guard.status(image.warnings, next(unlike))
            patient = self._patient_of(os.path.basename(image.path))
            patient_id = ":".join(part for part in patient if part)
            found.append(
                rows.decide(image.path, probabilities, status, self.meaning, patient_id)
            )
        return found

    def _probabilities(
        self, predictor: "Predictor", greys: np.ndarray, batch_size: int
    ) -> np.ndarray:
        pixels = images.area_resize(greys, predictor.image_size)
        return predictor.predict(pixels[..., None], batch_size=batch_size)

    def explain(self, item: Item, class_name: str = "") -> np.ndarray:
        """Returns where the film speaks for a class, uint8 [S, S, 3] (RGB).

        Grad-CAM over the film as the model sees it, S x S: orange speaks for the
        class, blue against it.

        Args:
          item: as `predict`'s.
          class_name: the positive class of two, the predicted one of more, if empty.

        Raises:
          ValueError: the film cannot be read, the class is none of the model's, the
            network has no convolutional map, or there are several networks.
        """
        image = inputs.read(item, *self._sizes)
        if image.grey is None:
            raise ValueError(f"{image.path}: {image.status}")
        from cxr.prediction import overlay  # Matplotlib: late

        film, heat, _ = self.heat(image.grey, class_name)
        return overlay.blend(film, heat)

    def heat(
        self, grey: np.ndarray, class_name: str = ""
    ) -> tuple[np.ndarray, np.ndarray, str]:
        """Returns the film as the model sees it, Grad-CAM's heat, and of which class.

        uint8 [S, S] and float32 [S, S], positive where it speaks for the class.

        Args:
          grey: uint8, at the stored size.
          class_name: as `explain`'s.
        """
        from cxr.prediction import gradcam  # TensorFlow: late

        predictor, *others = self._predictors
        if others:
            raise ValueError("Grad-CAM explains one network, and here are several")
        if self._explainer is None:
            self._explainer = gradcam.GradCam(predictor.model)
        pixels = images.area_resize(grey, predictor.image_size)
        batch = pixels[None, ..., None]
        if not class_name:
            class_name = self.positive_class
            if self.threshold is None:
                probabilities = predictor.predict(batch, batch_size=1)
                class_name = self.class_names[int(probabilities[0].argmax())]
        if class_name not in self.class_names:
            raise ValueError(
                f"class_name={class_name!r}: expected one of "
                f"{', '.join(self.class_names)}"
            )
        column = self.class_names.index(class_name)
        return pixels, self._explainer.heat(batch, column)[0], class_name
