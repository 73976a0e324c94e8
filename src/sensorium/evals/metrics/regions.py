"""Where something is said to lie in a picture: overlap of boxes that are told in words."""

import re

# left, right, top and bottom, in percent of the width and the height
_BOX = re.compile(
    r"(\d+(?:\.\d+)?) to (\d+(?:\.\d+)?) ?% of the width, (\d+(?:\.\d+)?) to (\d+(?:\.\d+)?) ?% of the height"
)
Box = tuple[float, float, float, float]


def box_in(text: str) -> Box | None:
    """(left, right, top, bottom) in percent of "68 to 75 % of the width, 47 to 64 % of the height"; None without one."""
    found = _BOX.search(text)
    if found is None:
        return None
    left, right, top, bottom = (float(number) for number in found.groups())
    return left, right, top, bottom


def box_words(box: Box) -> str:
    """Undo ``box_in``, rounded to whole percent."""
    left, right, top, bottom = (round(side) for side in box)
    return f"{left} to {right} % of the width, {top} to {bottom} % of the height"


def box_iou(a: Box | None, b: Box | None) -> float:
    """Intersection over union in [0, 1]; 0 where a box is missing or has no area."""
    if a is None or b is None:
        return 0.0
    width = min(a[1], b[1]) - max(a[0], b[0])
    height = min(a[3], b[3]) - max(a[2], b[2])
    areas = [(box[1] - box[0]) * (box[3] - box[2]) for box in (a, b)]
    if min(width, height) <= 0 or min(areas) <= 0:
        return 0.0
    return width * height / (sum(areas) - width * height)
