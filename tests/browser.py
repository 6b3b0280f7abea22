"""A headless Chromium from Debian's packages, driven by selenium, offline."""

import contextlib
import io
import shutil

import numpy as np
import PIL.Image
import pytest


def missing():
    """What is not installed, as words, or ""."""
    needed = [name for name in ("chromium", "chromedriver") if not shutil.which(name)]
    try:
        import selenium  # noqa: F401
    except ImportError:
        needed.append("selenium")
    return ", ".join(needed)


@contextlib.contextmanager
def browser(profile):
    """A driver; it is ended with all its processes afterwards."""
    if missing():
        pytest.skip(f"NOT RUN: {missing()} not there; scripts/install_test_tools.sh")
    from selenium import webdriver

    options = webdriver.ChromeOptions()
    options.binary_location = shutil.which("chromium")
    for flag in (
        "--headless=new",
        "--no-sandbox",  # Chromium refuses to run as root with one
        "--disable-dev-shm-usage",
        "--disable-gpu",
        "--hide-scrollbars",
        "--force-device-scale-factor=1",
        f"--user-data-dir={profile}",
    ):
        options.add_argument(flag)
    options.set_capability(
        "goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"}
    )
    service = webdriver.ChromeService(shutil.which("chromedriver"))
    driver = webdriver.Chrome(options=options, service=service)
    try:
        yield driver
    finally:
        driver.quit()


def show(driver, path, *, width=1280, height=900, dark=False, mobile=False):
    """Opens a file without any network, as a screen of that size would show it."""
    driver.execute_cdp_cmd("Network.enable", {})
    offline = dict(offline=True, latency=0, downloadThroughput=0, uploadThroughput=0)
    driver.execute_cdp_cmd("Network.emulateNetworkConditions", offline)
    scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
    driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [scheme]})
    size = dict(width=width, height=height, deviceScaleFactor=1, mobile=mobile)
    driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    driver.get_log("browser"), driver.get_log("performance")  # of what was there before
    driver.get(path.as_uri())
    assert driver.title


def picture(driver, *, element=None, whole=False):
    """The pixels of the window, of an element, or of the whole page."""
    if element is not None:
        png = element.screenshot_as_png
    elif whole:
        import base64

        found = driver.execute_cdp_cmd(
            "Page.captureScreenshot", {"captureBeyondViewport": True}
        )
        png = base64.b64decode(found["data"])
    else:
        png = driver.get_screenshot_as_png()
    return np.asarray(PIL.Image.open(io.BytesIO(png)).convert("RGB"))


def count(pixels, colour):
    """How many pixels have a colour such as "#2f74d0", give or take the edges' blend."""
    wanted = [int(colour[i : i + 2], 16) for i in (1, 3, 5)]
    return int((np.abs(pixels.astype(int) - wanted).max(axis=-1) <= 12).sum())
