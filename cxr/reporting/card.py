"""Shows what a set's card says of its films, and that it has none."""

from collections.abc import Mapping
from typing import Any

from cxr import set_card
from cxr.reporting import html


def table(content: Mapping[str, Any] | None) -> str:
    """A table of the card; without one a line on how to give it.

    Args:
      content: of `SetCard.content`, or None.
    """
    if content is None:
        return html.paragraph(
            "Population, reference standard, devices and period are not known: the set "
            "was converted without a card (make_tfrecords --set_card=FILE.json)."
        )
    told = html.table(
        ("of the set", "as its card says"),
        set_card.rows(content),
        text_columns=(0, 1),
        caption="Written by a person, not measured.",
    )
    return f'<div class="told">{told}</div>'
