"""Which class is the mirror image of which, by name."""

import pytest

from data.eeg.sides import class_mirror, left_first, mirrored_name


@pytest.mark.parametrize(
    ("name", "image"),
    [("left_hand", "right_hand"), ("RightFist", "LeftFist"), ("LEFT", "RIGHT"), ("feet", "feet")],
)
def test_a_name_and_its_mirror_image(name: str, image: str) -> None:
    assert mirrored_name(name) == image
    assert mirrored_name(image) == name


@pytest.mark.parametrize(
    ("classes", "mirror"),
    [
        (("left", "right"), (1, 0)),
        (("right_hand", "left_hand", "feet"), (1, 0, 2)),
        (("left_hand", "feet"), None),
        (("T1", "T2"), None),
        (("left_hand", "right_foot"), None),
    ],
)
def test_classes_that_have_a_mirror(classes: tuple[str, ...], mirror: tuple[int, ...] | None) -> None:
    assert class_mirror(classes) == mirror


def test_left_comes_first_of_two_sides_alone() -> None:
    assert left_first(("right_hand", "left_hand")) == ("left_hand", "right_hand")
    assert left_first(("right", "left", "feet")) == ("right", "left", "feet")
    assert left_first(("b", "a")) == ("b", "a")
