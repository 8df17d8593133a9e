"""The items of STARD-AI, CLAIM and TRIPOD+AI as we understand them, in our own words.

The standards' own texts decide.
"""

import dataclasses
from collections.abc import Callable

from cxr.evaluation import checklist_answers as answers
from cxr.evaluation.checklist_answers import Answer, Facts


@dataclasses.dataclass(frozen=True)
class Item:
    """One thing that readers should be told.

    Attributes:
      topic: the part of a paper where it belongs.
      asks: in our words.
      standards: that ask for it.
      answer: what this evaluation says.
    """

    topic: str
    asks: str
    standards: tuple[str, ...]
    answer: Callable[[Facts], Answer]


_ALL = ("STARD-AI", "CLAIM", "TRIPOD+AI")
_STARD, _CLAIM, _TRIPOD = _ALL
_AUTHORS = "the authors of a study"

ITEMS = (
    Item(
        "Purpose",
        "That a learned model judges films, and what it looks for",
        _ALL,
        answers.classes,
    ),
    Item(
        "Purpose",
        "A structured summary of design and results",
        _ALL,
        answers.people(f"{_AUTHORS} write it"),
    ),
    Item(
        "Purpose",
        "The clinical question, and where in care the model would stand",
        _ALL,
        answers.people(
            f"{_AUTHORS}; MODEL_CARD.md of the run folder allows research only"
        ),
    ),
    Item(
        "Purpose",
        "Aims or hypotheses fixed beforehand, and the study's design",
        _ALL,
        answers.people(_AUTHORS),
    ),
    Item("Purpose", "Protocol and registration", _ALL, answers.people(_AUTHORS)),
    Item(
        "Purpose",
        "Ethics approval and consent",
        (_STARD, _TRIPOD),
        answers.people("the set's makers and the study's ethics board"),
    ),
    Item(
        "Films and patients",
        "Where the films come from, and in which setting they were taken",
        _ALL,
        answers.card("source", "setting"),
    ),
    Item("Films and patients", "When they were taken", _ALL, answers.card("period")),
    Item(
        "Films and patients",
        "Who was eligible, and how they were chosen",
        _ALL,
        answers.card("population"),
    ),
    Item(
        "Films and patients",
        "How many were found, kept out and why, and judged: a flow diagram",
        _ALL,
        answers.flow,
    ),
    Item(
        "Films and patients",
        "Age and what else describes the patients",
        _ALL,
        answers.card("population", "ages"),
    ),
    Item(
        "Films and patients",
        "Age, sex, view and device film by film",
        _ALL,
        answers.recorded,
    ),
    Item(
        "Films and patients",
        "Machines and how films were acquired",
        (_STARD, _CLAIM),
        answers.card("devices"),
    ),
    Item(
        "Films and patients",
        "How severe the disease is, and what other diseases there are",
        (_STARD,),
        answers.people("the set's makers; labels tell classes alone"),
    ),
    Item(
        "Films and patients",
        "How films were prepared before the model saw them",
        (_CLAIM, _TRIPOD),
        answers.origin("model", "grey, squashed to a square by area reduction"),
    ),
    Item(
        "Films and patients",
        "How identities were removed",
        (_CLAIM,),
        answers.people(
            "whoever gave the films away; of a DICOM header the converter keeps "
            "bands and an HMAC, file names stay as they are"
        ),
    ),
    Item(
        "Films and patients",
        "How missing and damaged data were handled",
        _ALL,
        answers.flow,
    ),
    Item(
        "Films and patients",
        "How the sample's size was decided",
        _ALL,
        answers.people(f"{_AUTHORS}; the intervals show the precision reached"),
    ),
    Item(
        "Films and patients",
        "How films were divided, and at which level",
        (_CLAIM, _TRIPOD),
        answers.sides,
    ),
    Item(
        "Films and patients",
        "Whether training and test share patients or films",
        _ALL,
        answers.copies,
    ),
    Item(
        "Reference standard",
        "What a label rests on, and why that was chosen",
        _ALL,
        answers.card("reference_standard"),
    ),
    Item(
        "Reference standard",
        "Who labelled, with which training",
        _ALL,
        answers.card("labelled_by"),
    ),
    Item(
        "Reference standard",
        "How far those who label agree",
        (_STARD, _CLAIM),
        answers.people("the set's makers; a table of labels holds one a film"),
    ),
    Item(
        "Reference standard",
        "Whether labels and predictions were made without knowing each other",
        (_STARD, _TRIPOD),
        answers.people(
            "the set's makers; the model sees pixels alone when it predicts"
        ),
    ),
    Item(
        "Reference standard",
        "Time and treatment between film and reference standard",
        (_STARD,),
        answers.people("the set's makers"),
    ),
    Item(
        "Model",
        "Architecture, input and output, in enough detail to repeat it",
        _ALL,
        answers.origin("model", "model"),
    ),
    Item(
        "Model",
        "How it was initialised and trained, with every setting",
        (_CLAIM, _TRIPOD),
        answers.said("provenance", "every flag of the run, and the training curves"),
    ),
    Item(
        "Model",
        "Software and hardware",
        (_CLAIM, _TRIPOD),
        answers.origin("trained_with", "packages and devices"),
    ),
    Item(
        "Model",
        "How the final model was chosen",
        (_CLAIM, _TRIPOD),
        answers.said("training", "the best epoch on validation"),
    ),
    Item(
        "Model",
        "How several models were combined, or how much runs differ",
        (_CLAIM, _TRIPOD),
        answers.several,
    ),
    Item(
        "Model",
        "The cut-off for a positive call, and whether it was fixed beforehand",
        _ALL,
        answers.threshold,
    ),
    Item(
        "Model",
        "The very version that was judged",
        _ALL,
        answers.origin("model_sha256", "SHA-256 of the model file"),
    ),
    Item(
        "Model",
        "Whether code and model can be had",
        _ALL,
        answers.people(f"{_AUTHORS}; the commit stands under provenance"),
    ),
    Item(
        "Evaluation",
        "Which measures were used, and their definitions",
        _ALL,
        answers.said("numbers", "every measure with its definition"),
    ),
    Item("Evaluation", "How uncertainty was computed", _ALL, answers.intervals),
    Item(
        "Evaluation", "How well the model does, with intervals", _ALL, answers.accuracy
    ),
    Item(
        "Evaluation",
        "Every film counted: predictions against labels",
        _ALL,
        answers.confusion,
    ),
    Item(
        "Evaluation",
        "Whether probabilities mean what they say",
        (_CLAIM, _TRIPOD),
        answers.calibration,
    ),
    Item(
        "Evaluation",
        "What simpler means reach on the same films",
        (_CLAIM, _TRIPOD),
        answers.baseline,
    ),
    Item(
        "Evaluation",
        "What readers or the present practice reach on the same films",
        (_STARD, _CLAIM),
        answers.people("a reader study"),
    ),
    Item(
        "Evaluation",
        "What other prevalences would mean",
        (_STARD, _TRIPOD),
        answers.said("threshold", "predictive values by prevalence"),
    ),
    Item(
        "Evaluation",
        "For whom it works: subgroups and fairness",
        _ALL,
        answers.subgroups,
    ),
    Item(
        "Evaluation",
        "Whether the films differ from those of training",
        (_STARD, _TRIPOD),
        answers.said("shift", "scores here and on validation"),
    ),
    Item(
        "Evaluation", "Judged on films of another place or time", _ALL, answers.external
    ),
    Item(
        "Evaluation",
        "Whether test decided anything, and how often it was read",
        (_CLAIM, _TRIPOD),
        answers.reads,
    ),
    Item(
        "Evaluation",
        "Which films it gets wrong",
        (_STARD, _CLAIM),
        answers.said("films", "the hardest mistakes"),
    ),
    Item(
        "Evaluation",
        "How a call can be explained, and whether that was checked",
        (_CLAIM,),
        answers.said("attention", "Grad-CAM, a hint and no proof"),
    ),
    Item(
        "Evaluation",
        "What happens to inputs that it was not made for",
        (_STARD, _CLAIM),
        answers.guard,
    ),
    Item(
        "Evaluation",
        "Harm to patients during the study",
        (_STARD,),
        answers.people("nobody was treated by this evaluation; " + _AUTHORS),
    ),
    Item(
        "Discussion",
        "Limits, bias and what is uncertain",
        _ALL,
        answers.said("limits", "what the numbers do not say"),
    ),
    Item("Discussion", "Known biases of the set", _ALL, answers.card("known_biases")),
    Item(
        "Discussion",
        "What it means for care, and for whom it may hold",
        _ALL,
        answers.people(_AUTHORS),
    ),
    Item(
        "Discussion",
        "Who uses it, with which skill and oversight",
        (_STARD, _TRIPOD),
        answers.people("whoever would use it; this is no medical device"),
    ),
    Item(
        "Discussion",
        "How patients and the public took part",
        (_TRIPOD,),
        answers.people(_AUTHORS),
    ),
    Item(
        "Discussion",
        "Licence of the data, and how to cite them",
        _ALL,
        answers.card("licence", "citation"),
    ),
    Item(
        "Discussion",
        "Funding and conflicts of interest",
        _ALL,
        answers.people(_AUTHORS),
    ),
)
