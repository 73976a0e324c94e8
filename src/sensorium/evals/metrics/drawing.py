"""Drawing -> code: how far the tree of an SVG is from another's, and whether both draw the same."""

import re
from dataclasses import dataclass, field
from xml.parsers import expat

import numpy as np

from sensorium.media.image import ImageLimits, decode_image

MAX_NODES = 2000
MAX_CHARS = 200_000
_RENDER_SIZE = 96
# Two renderings of one shape differ a little along its edge when a number is rounded.
_TOLERANCE = 16


@dataclass
class Node:
    """A node of an ordered tree."""

    label: str
    children: list["Node"] = field(default_factory=list)

    @property
    def size(self) -> int:
        """How many nodes the tree has."""
        return len(postorder(self))


@dataclass(frozen=True)
class DrawingScore:
    """How near code is to the wanted code.

    Args:
        is_valid: whether it parses; if not, everything else is the worst there is.
        tree_distance: edits from one tree to the other. tree_similarity: 1 - distance / nodes of the larger tree,
            at least 0.
        pixel_agreement: share of pixels that agree. ink_iou: intersection over union of what is drawn, which does
            not count the empty page. Both None where no renderer is installed.
    """

    is_valid: bool
    tree_distance: int
    tree_similarity: float
    pixel_agreement: float | None
    ink_iou: float | None


def drawing_score(code: str, wanted: str) -> DrawingScore:
    """Compare generated SVG code with the wanted code.

    Raises:
        ValueError: the *wanted* code cannot be read.
    """
    truth = svg_tree(wanted)
    truth_pixels = render(wanted)
    try:
        tree = svg_tree(code)
    except ValueError:
        worst = None if truth_pixels is None else 0.0
        return DrawingScore(False, truth.size, 0.0, worst, worst)
    distance = tree_edit_distance(tree, truth)
    similarity = max(0.0, 1 - distance / max(tree.size, truth.size))
    if truth_pixels is None:
        return DrawingScore(True, distance, similarity, None, None)
    try:
        pixels = render(code)
    except ValueError:
        return DrawingScore(True, distance, similarity, 0.0, 0.0)
    assert pixels is not None
    return DrawingScore(True, distance, similarity, *pixel_agreement(pixels, truth_pixels))


def svg_tree(code: str) -> Node:
    """The tree of SVG code: elements, and under each its attributes, those of drawing cut into commands.

    An element is a node with its name; an attribute is a child "name=value" in order of names, and a path's ``d`` or a
    polygon's ``points`` a child with one child for each command or number pair, so that one wrong point costs 1.

    Raises:
        ValueError: not well-formed, too large, or with a document type (which may hold entities).
    """
    if len(code) > MAX_CHARS:
        raise ValueError(f"the code has {len(code):,} letters; at most {MAX_CHARS:,} are compared")
    parser = expat.ParserCreate()
    root: list[Node] = []
    open_nodes: list[Node] = []

    def start(name: str, attributes: dict[str, str]) -> None:
        node = Node(name.rpartition(":")[2], [_attribute(k, v) for k, v in sorted(attributes.items())])
        (open_nodes[-1].children if open_nodes else root).append(node)
        open_nodes.append(node)

    def refuse(*_: object) -> None:
        raise ValueError("the code has a document type; leave it out")

    parser.StartElementHandler = start
    parser.EndElementHandler = lambda name: open_nodes.pop()
    parser.StartDoctypeDeclHandler = refuse
    parser.CharacterDataHandler = lambda text: _add_text(open_nodes[-1], text)
    parser.buffer_text = True
    try:
        parser.Parse(code.strip(), True)
    except expat.ExpatError as error:
        raise ValueError(f"the code is not well-formed: {error}") from error
    size = root[0].size
    if size > MAX_NODES:
        raise ValueError(f"the drawing has {size:,} nodes; at most {MAX_NODES:,} are compared")
    return root[0]


def tree_edit_distance(a: Node, b: Node) -> int:
    """Fewest insertions, deletions and renamings of nodes that turn one ordered tree into the other.

    Source: Zhang and Shasha, SIAM J. Comput. 18 (1989), algorithm of section 3; each edit costs 1.
    """
    labels_a, first_a, roots_a = _flat(a)
    labels_b, first_b, roots_b = _flat(b)
    names = {label: number for number, label in enumerate(dict.fromkeys([*labels_a, *labels_b]))}
    ids_a, ids_b = (np.array([names[x] for x in labels]) for labels in (labels_a, labels_b))
    distance_AB = np.zeros((len(labels_a), len(labels_b)), np.int64)
    for i in roots_a:
        for j in roots_b:
            _forest_distances(i, j, ids_a, ids_b, first_a, first_b, distance_AB)
    return int(distance_AB[-1, -1])


def render(code: str, *, size: int = _RENDER_SIZE) -> np.ndarray | None:
    """Draw SVG code over white: uint8 ``[size, size, 3]``, or None where the extra ``build`` is not installed.

    Nothing is read from disk: a drawing that refers to a file shows nothing there.

    Raises:
        ValueError: the code cannot be drawn.
    """
    try:
        import resvg_py
    except ImportError:
        return None
    svg_tree(code)
    png = resvg_py.svg_to_bytes(
        svg_string=_without_references(code),
        width=size,
        height=size,
        background="#ffffff",
        skip_system_fonts=True,
    )
    pixels = decode_image(bytes(png), name="drawing", limits=ImageLimits(max_pixels=64 * size * size))
    page = np.full((size, size, 3), 255, np.uint8)
    height, width = min(size, pixels.shape[0]), min(size, pixels.shape[1])
    page[:height, :width] = pixels[:height, :width]
    return page


def pixel_agreement(a_HW3: np.ndarray, b_HW3: np.ndarray) -> tuple[float, float]:
    """Share of pixels whose channels differ by at most 16 of 255, and intersection over union of the ink.

    Ink is what differs from white by more than that. Two empty pages have an IoU of 1.
    """
    a, b = a_HW3.astype(np.int16), b_HW3.astype(np.int16)
    same_HW = (np.abs(a - b) <= _TOLERANCE).all(axis=2)
    ink_a, ink_b = ((255 - x > _TOLERANCE).any(axis=2) for x in (a, b))
    union = int((ink_a | ink_b).sum())
    return float(same_HW.mean()), float((ink_a & ink_b & same_HW).sum() / union) if union else 1.0


def postorder(root: Node) -> list[Node]:
    """Nodes with children before parents; without recursion, as code may be nested deeply."""
    found, waiting = [], [root]
    while waiting:
        node = waiting.pop()
        found.append(node)
        waiting += node.children
    return found[::-1]


def _flat(root: Node) -> tuple[list[str], np.ndarray, list[int]]:
    """Labels in postorder, the first leaf under each node, and the key roots of Zhang and Shasha."""
    nodes = postorder(root)
    place = {id(node): number for number, node in enumerate(nodes)}
    first = np.zeros(len(nodes), np.int64)
    for number, node in enumerate(nodes):
        first[number] = first[place[id(node.children[0])]] if node.children else number
    last_with_leaf = {int(leaf): number for number, leaf in enumerate(first)}
    return [node.label for node in nodes], first, sorted(last_with_leaf.values())


def _forest_distances(
    i: int,
    j: int,
    ids_a: np.ndarray,
    ids_b: np.ndarray,
    first_a: np.ndarray,
    first_b: np.ndarray,
    distance_AB: np.ndarray,
) -> None:
    """Fill in the distances of all pairs of subtrees whose first leaves are those of ``i`` and ``j``.

    A row is done at once: within it each cell can only add insertions to one before it, a running minimum.
    """
    low_a, low_b = int(first_a[i]), int(first_b[j])
    width = j - low_b + 2
    columns = np.arange(width)
    forest = np.zeros((i - low_a + 2, width), np.int64)
    forest[0] = columns
    is_tree_b = first_b[low_b : j + 1] == low_b
    before_b = first_b[low_b : j + 1] - low_b
    for x in range(low_a, i + 1):
        row = x - low_a + 1
        above = forest[row - 1]
        whole = is_tree_b & (first_a[x] == low_a)
        rename = above[:-1] + (ids_b[low_b : j + 1] != ids_a[x])
        replace = forest[first_a[x] - low_a][before_b] + distance_AB[x, low_b : j + 1]
        best = np.minimum(above[1:] + 1, np.where(whole, rename, replace))
        start = np.concatenate([[row], best])
        forest[row] = np.minimum.accumulate(start - columns) + columns
        distance_AB[x, low_b : j + 1][whole] = forest[row][1:][whole]


_COMMAND = re.compile(r"[a-df-zA-DF-Z][^a-df-zA-DF-Z]*")
_NUMBER = re.compile(r"[-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?")


def _attribute(name: str, value: str) -> Node:
    if name == "d":
        return Node(name, [Node(_squeezed(part)) for part in _COMMAND.findall(value)])
    if name == "points":
        numbers = _NUMBER.findall(value)
        return Node(name, [Node(" ".join(numbers[at : at + 2])) for at in range(0, len(numbers), 2)])
    return Node(f"{name}={' '.join(value.split())}")


def _squeezed(command: str) -> str:
    """A path command with its numbers one space apart: "M 1,2" and "M1 2" are one."""
    return " ".join([command[0], *(f"{float(number):g}" for number in _NUMBER.findall(command[1:]))])


def _add_text(node: Node, text: str) -> None:
    words = " ".join(text.split())
    if words:
        node.children.append(Node(words))


def _without_references(code: str) -> str:
    """The code without references to anything outside itself."""
    return re.sub(r"((?:xlink:)?href\s*=\s*)(\"(?!#)[^\"]*\"|'(?!#)[^']*')", r'\1""', code)
