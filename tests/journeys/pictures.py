"""`python -m tests.journeys.pictures` takes the README's picture anew: the splash page and the status page on a phone.

A real server, the emulated gateway and a real browser; what the guest has used is made up, the pages are not.
"""

from __future__ import annotations

import io
import sys
from pathlib import Path

from PIL import Image
from playwright.sync_api import Browser

from tests.browser import launched
from tests.journeys.conftest import short_path
from tests.journeys.house import LAPTOP, House
from tests.journeys.live import ROOT, Live

PICTURE = ROOT / "docs" / "images" / "guest.png"
WIDTH, HEIGHT, SCALE = 360, 708, 2
MARGIN, GROUND = 24, "#dfe4e2"
COLOURS = 128


def taken(live: Live, browser: Browser) -> list[Image.Image]:
    """The two pages, as a guest sees them."""
    house = House(live, browser, "linde", colour="#1f5148")
    house.edits(
        support="Stuck? Ask at reception, or dial 9 from your room.",
        code_hint="It is on your room card.",
        time_zone="Europe/Berlin",
    )
    house.account("room 12", "breakfast at eight")
    house.opens_by_click(minutes=60, cooldown_minutes=1440)
    # As fast as a script: what grows faster than the line could carry is charged later.
    live.change("UPDATE gateway SET link_bytes_per_second = 1000000000000")
    code = house.code(minutes=180, megabytes=500, devices=2)
    phone = house.device(device_scale_factor=SCALE, viewport={"width": WIDTH, "height": HEIGHT})
    laptop = house.device("laptop", agent=LAPTOP)
    phone.opens()
    pages = [phone.page.screenshot()]
    phone.types_code(code)
    laptop.signs_in(code)
    phone.loads(318_000_000)
    laptop.loads(120_000_000)
    house.reports()
    house.passes("77 minutes")
    phone.page.reload()
    pages.append(phone.page.screenshot())
    house.settles()
    house.closes()
    return [Image.open(io.BytesIO(page)).convert("RGB") for page in pages]


def composed(pages: list[Image.Image]) -> Image.Image:
    """Side by side, in few colours: a README should not weigh more than the pages that it shows."""
    margin = MARGIN * SCALE
    size = sum(page.width for page in pages) + margin * (len(pages) + 1), pages[0].height + 2 * margin
    whole = Image.new("RGB", size, GROUND)
    left = margin
    for page in pages:
        whole.paste(page, (left, margin))
        left += page.width + margin
    return whole.quantize(COLOURS, dither=Image.Dither.NONE)


def main(target: Path = PICTURE) -> None:
    with short_path() as directory, launched() as browser:
        live = Live(directory)
        try:
            live.start()
            picture = composed(taken(live, browser))
        finally:
            live.close()
    target.parent.mkdir(parents=True, exist_ok=True)
    picture.save(target, optimize=True)
    sys.stdout.write(f"{target}: {target.stat().st_size / 1000:.0f} kB\n")


if __name__ == "__main__":
    main()
