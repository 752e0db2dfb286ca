"""Which class is the mirror image of which: a class called left_hand is right_hand's."""

import re
from collections.abc import Sequence


def mirrored_name(name: str) -> str:
    """The name with left and right exchanged: "left_hand" -> "right_hand", "feet" -> "feet"."""

    def other(match: re.Match[str]) -> str:
        word = match[0]
        swapped = "right" if word.lower() == "left" else "left"
        return swapped.upper() if word.isupper() else swapped.capitalize() if word[0].isupper() else swapped

    return re.sub(r"left|right", other, name, flags=re.IGNORECASE)


def class_mirror(classes: Sequence[str]) -> tuple[int, ...] | None:
    """Of each class the index of its mirror image; None where none has a side, or an image is missing."""
    images = [mirrored_name(name) for name in classes]
    if images == list(classes) or not set(images) <= set(classes):
        return None
    return tuple(classes.index(image) for image in images)


def left_first(classes: Sequence[str]) -> tuple[str, ...]:
    """Two classes of which one is the other's mirror image, the left one first; any others as they are."""
    if class_mirror(classes) == (1, 0) and "left" in classes[1].lower():
        return (classes[1], classes[0])
    return tuple(classes)
