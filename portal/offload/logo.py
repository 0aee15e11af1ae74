"""Decodes one picture that somebody uploaded, in a process of its own, and writes a small clean PNG.

Run as `python -I logo.py FORMAT`: the picture on standard input, the PNG on standard output; the exit status says what
was wrong (LARGE, BROKEN). Before the first byte is read it gives up its right to open files, to start processes, to use
more than SECONDS of processor time and MEMORY of memory, and, where it has them, the rights of root: what a malicious
picture can reach from inside the decoder is an empty room. Nothing of the original is kept but its pixels.
"""

import contextlib
import io
import os
import resource
import sys

from PIL import ExifTags, Image, ImageOps

PIXELS = 16_000_000
EDGES = (512, 384, 256, 192, 128, 96)
"""The longer side, in pixels; a phone shows at most 112 CSS pixels of height. The first that fits is taken."""
BYTES = 14 * 1024
"""What it may weigh: a guest's page and its style leave so much of 30 kB."""
COLOURS = 64
SECONDS = 5
MEMORY = 512 * 2**20
STRANGER = 65533  # nobody's number is 65534, and PostgreSQL may run as nobody
LARGE, BROKEN = 3, 4


class TooLarge(Exception):
    """More than PIXELS pixels."""


def shut_in() -> None:
    """Give up every right that decoding does not need."""
    if os.geteuid() == 0:
        with contextlib.suppress(OSError):  # a root who may not is none: the only user of a namespace of its own
            os.setgroups([])
            os.setgid(STRANGER)
            os.setuid(STRANGER)
    for what, most in (
        (resource.RLIMIT_CPU, SECONDS),
        (resource.RLIMIT_AS, MEMORY),
        (resource.RLIMIT_NOFILE, 3),  # which are open: input, output, errors
        (resource.RLIMIT_NPROC, 0),
        (resource.RLIMIT_FSIZE, 0),
        (resource.RLIMIT_CORE, 0),
    ):
        resource.setrlimit(what, (most, most))


def redraw(data: bytes, form: str) -> bytes:
    """The picture as a PNG within EDGES and BYTES. Raises TooLarge, or whatever a decoder raises."""
    Image.MAX_IMAGE_PIXELS = None  # we ask ourselves, before anything is decoded
    with Image.open(io.BytesIO(data), formats=[form]) as source:
        if source.width * source.height > PIXELS:
            raise TooLarge
        source.draft("RGB", (EDGES[0], EDGES[0]))  # a JPEG can be decoded smaller at once
        upright = ImageOps.exif_transpose(source)
    transparent = upright.mode in ("RGBA", "LA", "PA") or "transparency" in upright.info
    picture = upright.convert("RGBA" if transparent else "RGB")
    for edge in EDGES:
        picture.thumbnail((edge, edge), Image.Resampling.LANCZOS)
        exact = Image.frombytes(picture.mode, picture.size, picture.tobytes())  # without profiles, comments, positions
        # A drawing keeps its colours; a photograph weighs a fifth with so few of them, and nobody sees it at this size.
        for clean in (exact, exact.quantize(COLOURS, Image.Quantize.FASTOCTREE)):
            png = _png(clean)
            if len(png) <= BYTES:
                return png
    return png


def _png(picture: Image.Image) -> bytes:
    out = io.BytesIO()
    picture.save(out, "PNG", optimize=True)
    return out.getvalue()


def _sample(form: str) -> bytes:
    """A picture of our own: what Pillow imports no sooner than it needs it, could not be opened any more later."""
    turned = Image.Exif()
    turned[ExifTags.Base.Orientation] = 6
    out = io.BytesIO()
    Image.new("RGB", (EDGES[0] + 1, 2)).save(out, form, exif=turned)
    return out.getvalue()


def main() -> int:
    """Standard input to standard output."""
    form = sys.argv[1]
    redraw(_sample(form), form)
    shut_in()
    data = sys.stdin.buffer.read()
    try:
        png = redraw(data, form)
    except TooLarge:
        return LARGE
    except Exception:  # noqa: BLE001
        return BROKEN  # decoders raise anything, and nobody reads our standard error
    sys.stdout.buffer.write(png)
    return 0


if __name__ == "__main__":
    sys.exit(main())
