"""The picture of a run, made ready for a page: its shapes are links to nodes, and nothing but shapes comes through."""

import re
from collections.abc import Iterator
from xml.etree import ElementTree

from markupsafe import Markup

SVG = "{http://www.w3.org/2000/svg}"
SHAPES = {"svg", "g", "title", "rect", "path", "circle", "text"}
ATTRIBUTES = {
    "x", "y", "width", "height", "rx", "d", "cx", "cy", "r", "class", "transform", "viewBox", "aria-label", "data-node",
}  # fmt: skip
BORDER = 8
NODE = re.compile(r"[0-9a-f]{8}")


def picture(svg: str, where: str, chosen: str | None) -> Markup:
    """A document of df.svg as part of a page. where: the address of the run; its shapes lead to ?node=."""
    root = ElementTree.fromstring(svg)
    clean(root)
    shapes = [shape for shape in root if shape.tag == f"{SVG}svg"]
    drop_head(root)
    crop(root, shapes)
    for place, shape in list(enumerate(root)):
        node = shape.get("data-node", "")
        if NODE.fullmatch(node):
            root[place] = link(shape, f"{where}?node={node}#node", node == chosen)
    root.set("role", "group")
    ElementTree.register_namespace("", SVG.strip("{}"))
    return Markup(ElementTree.tostring(root, encoding="unicode"))


def clean(element: ElementTree.Element) -> None:
    """Takes away what is not listed; the page has the style."""
    for name in list(element.attrib):
        if name not in ATTRIBUTES:
            del element.attrib[name]
    for part in list(element):
        if not isinstance(part.tag, str) or part.tag.removeprefix(SVG) not in SHAPES:
            element.remove(part)
        else:
            clean(part)


def drop_head(root: ElementTree.Element) -> None:
    """Takes away what the page says in its own words: the run and its status, and the paper below."""
    for part in list(root):
        kind = part.get("class", "").split(" ")[0]
        if part.tag == f"{SVG}title" or kind in ("paper", "head", "run", "sign"):
            root.remove(part)


def crop(root: ElementTree.Element, shapes: list[ElementTree.Element]) -> None:
    """Cuts off the place of the head."""
    boxes = list(measures(shapes))
    if not boxes:
        return
    labels = [float(part.get("y", "0")) - 12 for part in root if part.get("class") == "part"]
    top = min([*(box[1] for box in boxes), *labels]) - BORDER
    width = max(box[0] + box[2] for box in boxes) + BORDER
    height = max(box[1] + box[3] for box in boxes) + BORDER - top
    left = min(box[0] for box in boxes) - BORDER
    root.set("width", f"{width - left:g}")
    root.set("height", f"{height:g}")
    root.set("viewBox", f"{left:g} {top:g} {width - left:g} {height:g}")


def measures(shapes: list[ElementTree.Element]) -> Iterator[tuple[float, float, float, float]]:
    """Where shapes are: x, y, width, height."""
    for shape in shapes:
        yield tuple(float(shape.get(name, "0")) for name in ("x", "y", "width", "height"))  # type: ignore[misc]


def link(shape: ElementTree.Element, target: str, is_chosen: bool) -> ElementTree.Element:
    """A shape in a link."""
    around = ElementTree.Element(f"{SVG}a", {"href": target})
    around.set("id", f"shape-{shape.get('data-node')}")
    if is_chosen:
        around.set("class", "chosen")
        around.set("aria-current", "true")
    around.append(shape)
    return around
