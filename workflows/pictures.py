"""The pictures of the documentation: plain SVG, the same bytes every time. `workflows/generate` writes them."""

import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from xml.sax.saxutils import escape

ROOT = Path(__file__).resolve().parents[1]
FONT = "font-family='DejaVu Sans, Verdana, sans-serif'"
INK, LINE, PAPER = "#22303c", "#6b7785", "#ffffff"
SOURCE, WORK, SAID, JUDGED = "#e8eaf0", "#e3f1e3", "#fbe6c8", "#dbe7f7"


class Picture:
    """Boxes and arrows on white paper."""

    def __init__(self, width: int, height: int, title: str) -> None:
        self.head = (
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" '
            f'height="{height}" role="img"><title>{escape(title)}</title>'
            '<defs><marker id="tip" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="7" markerHeight="7" '
            f'orient="auto"><path d="M0 0 8 4 0 8z" fill="{LINE}"/></marker></defs>'
            f'<rect width="{width}" height="{height}" rx="8" fill="{PAPER}"/>'
        )
        self.parts: list[str] = []

    def text(
        self, x: int, y: int, words: str, *, size: int = 12, bold: bool = False, anchor: str = "middle"
    ) -> None:
        weight = ' font-weight="bold"' if bold else ""
        self.parts.append(
            f'<text x="{x}" y="{y}" {FONT} font-size="{size}" text-anchor="{anchor}" fill="{INK}"{weight}>'
            f"{escape(words)}</text>"
        )

    def box(self, x: int, y: int, w: int, h: int, fill: str, title: str, *lines: str) -> None:
        self.parts.append(
            f'<rect x="{x}" y="{y}" width="{w}" height="{h}" rx="6" fill="{fill}" stroke="{LINE}"/>'
        )
        top = y + (h - 16 * len(lines)) // 2 + 5
        self.text(x + w // 2, top, title, size=13, bold=True)
        for number, line in enumerate(lines, start=1):
            self.text(x + w // 2, top + 16 * number, line, size=11)

    def frame(self, x: int, y: int, w: int, h: int, title: str) -> None:
        self.parts.append(
            f'<rect x="{x}" y="{y}" width="{w}" height="{h}" rx="8" fill="none" stroke="{LINE}" '
            'stroke-dasharray="5 4"/>'
        )
        self.text(x + 12, y + 18, title, anchor="start")

    def arrow(self, *points: tuple[int, int]) -> None:
        way = " ".join(f"{x},{y}" for x, y in points)
        self.parts.append(
            f'<polyline points="{way}" fill="none" stroke="{LINE}" stroke-width="1.5" marker-end="url(#tip)"/>'
        )

    def svg(self) -> str:
        return "\n".join([self.head, *self.parts, "</svg>"]) + "\n"


def chain() -> str:
    """Draw the way from the source to a verdict."""
    picture = Picture(990, 352, "From source to a verdict")
    picture.box(16, 128, 132, 76, SOURCE, "source and lock", "spec, packages,", "revisions: pinned")
    for y, name, key in ((16, "operator A", "key A"), (180, "operator B: another machine", "key B")):
        picture.frame(190, y, 500, 136, name)
        middle = y + 76
        picture.box(206, y + 38, 132, 76, WORK, "rebuilds", "run 1, run 2 varied:", "reproduced?")
        picture.box(372, y + 38, 132, 76, WORK, "measurements", "MRENCLAVE, digests,", "and their log")
        picture.box(538, y + 38, 136, 76, SAID, "statements", "provenance, values,", f"signed: {key}")
        picture.arrow((148, 166), (169, 166), (169, middle), (204, middle))
        picture.arrow((338, middle), (370, middle))
        picture.arrow((504, middle), (536, middle))
        picture.arrow((674, middle), (711, middle), (711, 166), (734, 166))
    picture.box(736, 128, 104, 76, SAID, "bundle", "one OCI", "image layout")
    picture.box(868, 128, 100, 76, JUDGED, "verdict", "n of m agree,", "every check")
    picture.arrow((840, 166), (870, 166))
    picture.box(720, 24, 136, 60, SAID, "release", "signed by engineers")
    picture.arrow((788, 84), (788, 126))
    picture.text(866, 58, "rvp release", bold=True, anchor="start")
    picture.box(858, 244, 120, 60, SOURCE, "policy", "the verifier's own")
    picture.arrow((918, 244), (918, 206))
    for x, words in (
        (82, "rvp lock"),
        (355, "rvp build (A), rvp rebuild (B)"),
        (606, "rvp sign"),
        (788, "rvp publish"),
        (918, "rvp verify"),
    ):
        picture.text(x, 340, words, size=12, bold=True)
    return picture.svg()


def example_graph() -> str:
    """Draw the graph of the example, with an empty store: `rvp plan --graph svg`."""
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch) / "keyservice"
        shutil.copytree(ROOT / "examples" / "keyservice", folder, ignore=shutil.ignore_patterns(".rvp"))
        return subprocess.run(
            [
                sys.executable,
                ROOT / "rvp.py",
                "-C",
                folder,
                "plan",
                "--store",
                f"{scratch}/store",
                "--graph",
                "svg",
            ],
            capture_output=True,
            text=True,
            check=True,
        ).stdout


def explanation() -> str:
    """Draw what `rvp explain A B --picture` draws, of two small enclaves: another heap, another byte of code."""
    from pipeline.explain.explain import Operand, explain_with_sides
    from pipeline.explain.picture import draw
    from pipeline.measure.sgx.enclave_image import PAGE, EnclaveImage, Pages
    from pipeline.measure.sgx.hashing import mrenclave
    from pipeline.measure.sgx.log import write_log

    def log(folder: Path, name: str, *, heap: int, code: bytes) -> Operand:
        rw = 0x203
        parts = [
            Pages(address=0, count=1, flags=0x201, content=b"r" * PAGE, label="segment 0 r--"),
            Pages(address=PAGE, count=4, flags=0x205, content=code, label="segment 1 r-x"),
            Pages(address=5 * PAGE, count=2, flags=rw, content=b"d" * (2 * PAGE), label="segment 2 rw-"),
            Pages(address=8 * PAGE, count=heap, flags=rw, label="heap"),
        ]
        at = (8 + heap) * PAGE
        for number in range(2):
            tcs = at.to_bytes(8, "little").ljust(PAGE, b"\0")
            parts += [
                Pages(address=at, count=16, flags=rw, content=b"\xcc" * PAGE, label=f"stack {number}"),
                Pages(address=at + 0x20000, count=1, flags=0x100, content=tcs, label=f"TCS {number}"),
                Pages(address=at + 0x21000, count=2, flags=rw, content=bytes(PAGE), label=f"SSA {number}"),
            ]
            at += 0x40000
        image = EnclaveImage(size_bytes=1 << 24, ssa_frame_size=1, parts=tuple(parts))
        path = folder / name
        path.write_bytes(msgspec.json.encode(write_log(image, mrenclave(image))))
        return Operand(text=str(path))

    import msgspec

    code = b"".join(bytes([number]) * PAGE for number in range(4))
    with tempfile.TemporaryDirectory() as folder:
        left = log(Path(folder), "published.log", heap=64, code=code)
        right = log(Path(folder), "rebuilt.log", heap=256, code=code[:-1] + b"!")
        said, *sides = explain_with_sides(left, right, clock=lambda: 0.0)
        return draw(said, *sides).replace(f"{folder}/", "")


PICTURES = {"chain.svg": chain, "keyservice.svg": example_graph, "explain.svg": explanation}
