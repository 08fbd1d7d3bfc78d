"""Photograph the page of `latewood serve`: page.png and page-code.png, in docs/ or another folder that exists.

Run: python scripts/page_screenshots.py [FOLDER]. Wants Debian's chromium and chromedriver, and the extra dev.
Searches the texts below, and this repository's own code.
"""

import sys
import tempfile
from contextlib import ExitStack
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from encoder.light import LightEncoder  # noqa: E402
from indexing import Index  # noqa: E402
from indexing.writing.sources import update_folder  # noqa: E402
from tests.helpers.browser import Page, open_browser, serving  # noqa: E402

QUESTION, POINTED = "how do physicians check the pulse?", "physicians"
CODE_QUESTION = "keep the best passage of each document"
SIZE = (1060, 800, 2)
TEXTS = {
    "The heart": "The heart pumps blood through the body, about five litres a minute in somebody at rest. "
    "Doctors listen to it with a stethoscope, and measure how fast it beats by two fingers on the wrist.",
    "Blood pressure": "A cuff around the upper arm is filled with air until no blood passes. While the air is "
    "let out a nurse listens for the first beat and for the last; the two figures are written one above the other.",
    "The electrocardiogram": "Ten electrodes on the skin record the small currents that make the heart contract. "
    "From the curve a cardiologist reads its rhythm, and whether a part of the muscle has too little oxygen.",
    "The metronome": "A pendulum with a weight that can be moved gives musicians a steady beat, from forty to two "
    "hundred strokes a minute. Composers began to write its numbers into their scores after 1815.",
    "Central banks": "A central bank sets the rate at which other banks borrow. When prices rise too fast it "
    "raises the rate, so that loans cost more and less is spent.",
    "Pulsars": "Some neutron stars send a beam of radio waves that sweeps over the Earth like that of a lighthouse. "
    "Their ticks are as regular as an atomic clock, and slow down by less than a second in a million years.",
    "Peas and beans": "Dry pulses such as lentils, chickpeas and beans keep for years. They are soaked overnight "
    "and boiled until soft; a pinch of soda makes it quicker.",
}


def main(folder: Path = ROOT / "docs") -> list[Path]:
    """Make both pictures in a folder; their paths."""
    made = [folder / "page.png", folder / "page-code.png"]
    with ExitStack() as stack:
        place = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        indexes = {name: place / f"{name}.index" for name in ("encyclopaedia", "ranking")}
        encoder = LightEncoder.load()
        with Index.create(indexes["encyclopaedia"], encoder) as index:
            index.add({"doc_id": title, "text": text} for title, text in TEXTS.items())
        with Index.create(indexes["ranking"], encoder) as index:
            update_folder(index, ROOT / "retriever" / "ranking")
        server = stack.enter_context(serving(indexes))
        page = Page(stack.enter_context(open_browser(place / "profile")), server.url)
        page.fresh()
        page.size(*SIZE)
        page.open(f"?index=encyclopaedia&q={QUESTION}")
        page.until(page.titles)
        next(token for token in page.all(".token") if token.text == POINTED).click()
        page.driver.get_screenshot_as_file(str(made[0]))
        page.scheme("dark")
        page.open(f"?index=ranking&q={CODE_QUESTION}")
        page.until(page.titles)
        page.driver.get_screenshot_as_file(str(made[1]))
    return made


if __name__ == "__main__":
    print(*main(*map(Path, sys.argv[1:])), sep="\n")
