"""Takes the screenshots of the documentation.

    python -m recipes.search --workdir=runs/digits --controller=reinforce
    python -m recipes.screenshots --workdir=runs/digits

Needs Chromium and TensorBoard. Writes report_phone.png, report_desktop.png and
tensorboard.png.
"""

import contextlib
import pathlib
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request

from absl import flags

from recipes import command_line, workdir_flags

_IMAGES = flags.DEFINE_string("images", "docs", "Folder for the images.")
_BROWSER = flags.DEFINE_string(
    "browser", "chromium", "Command of a browser of the Chromium family."
)

# Width and height of the page, in CSS pixels.
PHONE = (390, 1100)
DESKTOP = (1200, 1100)
_SECONDS_TO_START = 60


def take(
    browser: str, url: str, path: pathlib.Path, size: tuple[int, int]
) -> None:
    """Writes an image of a page.

    Args:
        browser: Command of the browser.
        url: Address of the page.
        path: PNG file to write.
        size: Width and height in CSS pixels.
    """
    with tempfile.TemporaryDirectory() as profile:
        subprocess.run(
            [
                browser,
                "--headless",
                "--no-sandbox",
                "--disable-gpu",
                "--hide-scrollbars",
                f"--user-data-dir={profile}",
                f"--window-size={size[0]},{size[1]}",
                # Virtual milliseconds for scripts to draw.
                "--virtual-time-budget=60000",
                f"--screenshot={path.resolve()}",
                url,
            ],
            check=True,
            capture_output=True,
            timeout=180,
        )


def framed(report: pathlib.Path, width: int) -> str:
    """Returns a page that shows a report as wide as a phone.

    A window cannot be that narrow, a frame can.
    """
    return (
        "<body style='margin:0'><iframe style='border:0' "
        f"width={width} height={PHONE[1]} src='{report.resolve().as_uri()}'>"
        "</iframe></body>"
    )


@contextlib.contextmanager
def tensorboard(folder: pathlib.Path):
    """Runs TensorBoard on a folder; yields its address."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "tensorboard.main"]
    process = subprocess.Popen(
        [*command, f"--logdir={folder}", f"--port={port}"],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    url = f"http://127.0.0.1:{port}/"
    try:
        deadline = time.monotonic() + _SECONDS_TO_START
        while True:
            try:
                urllib.request.urlopen(url, timeout=5).close()
                break
            except OSError as error:
                if time.monotonic() > deadline or process.poll() is not None:
                    raise ValueError(
                        "Expected TensorBoard to start. Received: "
                        f"{error}. `pip install tensorboard` brings it"
                    ) from error
                time.sleep(0.5)
        yield url
    finally:
        process.terminate()
        process.wait()


def run(workdir: pathlib.Path, output: pathlib.Path, browser: str) -> None:
    """Takes the screenshots.

    Raises:
        ValueError: If there is no report, browser or TensorBoard.
    """
    report = workdir / "report.html"
    if not report.is_file():
        raise ValueError(
            f"Expected a report.html in {str(workdir)!r}. Received: none. "
            "`python -m recipes.search --workdir=...` writes one"
        )
    if shutil.which(browser) is None:
        raise ValueError(
            "Expected a browser of the Chromium family. Received: "
            f"--browser={browser}, which is not installed"
        )
    output.mkdir(parents=True, exist_ok=True)
    desktop = output / "report_desktop.png"
    take(browser, report.resolve().as_uri(), desktop, DESKTOP)
    with tempfile.TemporaryDirectory() as folder:
        frame = pathlib.Path(folder) / "phone.html"
        frame.write_text(framed(report, PHONE[0]))
        # The window is wider than the frame; what is beside it is cut off.
        wide = pathlib.Path(folder) / "phone.png"
        take(browser, frame.as_uri(), wide, (600, PHONE[1]))
        _cut(wide, output / "report_phone.png", PHONE)
    with tensorboard(workdir) as url:
        page = f"{url}#scalars"
        take(browser, page, output / "tensorboard.png", DESKTOP)


def _cut(source: pathlib.Path, path: pathlib.Path, size) -> None:
    # A dependency of matplotlib.
    from PIL import Image

    with Image.open(source) as image:
        image.crop((0, 0, *size)).save(path, optimize=True)


def main(_):
    run(
        pathlib.Path(workdir_flags.WORKDIR.value),
        pathlib.Path(_IMAGES.value),
        _BROWSER.value,
    )


if __name__ == "__main__":
    command_line.run(main)
