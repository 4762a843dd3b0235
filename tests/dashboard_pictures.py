"""`make pictures`: the pictures of the README, of a run that is there. `python dashboard_pictures.py RUN FOLDER`."""

import json
import shutil
import sys
import tempfile
import urllib.request
from pathlib import Path
from typing import Any

from playwright.sync_api import Page, sync_playwright

from dashboard_world import site

WIDTH, RUN_HEIGHT, INSPECTOR_HEIGHT = 1280, 1620, 900


def ask(url: str) -> Any:
    with urllib.request.urlopen(url) as answer:  # noqa: S310 - an address of this process
        return json.load(answer)


def rollout_to_show(url: str, run: str) -> tuple[str, int]:
    """The page of a late group with a clearly wrong step, which the PRM finds, and the index of the rollout that has it."""
    late = ask(f"{url}v1/runs/{run}/rollouts?right=false&reason=scored&sort=step&limit=50")["data"]
    for one in sorted(late, key=lambda one: one["lowest_reward"]):
        place = f"{one['step']}/{one['group_id']}"
        (rollout,) = ask(f"{url}v1/runs/{run}/rollouts/{place}?index={one['index']}")["rollouts"]
        if rollout["process_rewards"].index(min(rollout["process_rewards"])) == rollout["first_wrong_token"]:
            return f"#/runs/{run}/rollouts/{place}?show={one['index']}", one["index"]
    raise SystemExit(f"run {run} has no late sampled rollout whose wrong step has the lowest reward: choose another run")


def take(page: Page, path: Path) -> None:
    page.wait_for_load_state("networkidle")
    page.evaluate("document.activeElement?.blur()")
    page.screenshot(path=path)
    sys.stdout.write(f"{path} ({path.stat().st_size // 1000} kB)\n")


def main(run: Path, folder: Path) -> None:
    if not (run / "metrics.jsonl").is_file():
        raise SystemExit(f"{run} is no run: train one first, for example with `make demo`")
    folder.mkdir(parents=True, exist_ok=True)
    browser_path = next((path for name in ("chromium", "chromium-browser", "google-chrome") if (path := shutil.which(name))), None)
    with (
        tempfile.TemporaryDirectory() as index,
        site(run.parent, Path(index), active="none", services=False) as found,
        sync_playwright() as engine,
    ):
        browser = engine.chromium.launch(executable_path=browser_path, args=["--no-sandbox", "--disable-gpu"])
        page = browser.new_page(viewport={"width": WIDTH, "height": RUN_HEIGHT}, color_scheme="light")
        page.goto(f"{found.url}#/runs/{run.name}")
        page.get_by_text("Who works, who waits").wait_for()
        take(page, folder / "run.png")
        path, index_of = rollout_to_show(found.url, run.name)
        page.set_viewport_size({"width": WIDTH, "height": INSPECTOR_HEIGHT})
        page.goto(found.url + path)
        page.get_by_label(f"Tokens of rollout {index_of}").focus()
        page.keyboard.press("l")
        take(page, folder / "inspector.png")
        browser.close()


if __name__ == "__main__":
    main(Path(sys.argv[1]).absolute(), Path(sys.argv[2]))
