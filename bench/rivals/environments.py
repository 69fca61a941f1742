"""A virtual environment for each rival, made by `python -m bench.rivals setup`, each with the same torch."""

import json
import os
import subprocess
import sys
from pathlib import Path

PLACE = Path(os.environ.get("RIVALS_ENVIRONMENTS", Path(__file__).parents[2] / "build" / "rivals"))
RESULTS = Path(__file__).parents[1] / "results" / "rivals"
COMMON = ["torch==2.13.0", "transformers==5.23.0"]
REQUIRES = {
    "ddp": [],
    "torchft": ["torchft-nightly==2026.10.26"],
    "hivemind": ["hivemind==1.1.12", "setuptools<81"],
    "flower": ["flwr==1.42.0"],
}
PROBES = {"ddp": "torch", "torchft": "torchft", "hivemind": "hivemind", "flower": "flwr"}


def python(name: str) -> Path:
    """The interpreter of a contestant's environment; duckweed's is the one that this runs in."""
    return Path(sys.executable) if name == "duckweed" else PLACE / name / "bin" / "python"


def setup(names: list[str]) -> None:
    """Make what is missing. What does not install, or cannot be imported, is recorded with the reason."""
    RESULTS.mkdir(parents=True, exist_ok=True)
    record = RESULTS / "setup.json"
    known = json.loads(record.read_text()) if record.exists() else {}
    for name in names:
        print(f"{name}: {', '.join(COMMON + REQUIRES[name])}", flush=True)
        known[name] = made(name)
        print(f"{name}: {known[name]['reason'] or 'ready'}", flush=True)
        record.write_text(json.dumps(known, indent=1, sort_keys=True) + "\n")


def made(name: str) -> dict[str, object]:
    """Requirements, versions of all that was installed, and why it cannot be used; "" if it can."""
    if not python(name).exists():
        subprocess.run([sys.executable, "-m", "venv", PLACE / name], check=True)
    install = [str(python(name)), "-m", "pip", "install", "-q", *COMMON, *REQUIRES[name]]
    done = subprocess.run(install, capture_output=True, text=True)
    reason = "" if done.returncode == 0 else last_line(done.stderr)
    if not reason:
        done = subprocess.run(
            [python(name), "-c", f"import {PROBES[name]}"], capture_output=True, text=True
        )
        reason = "" if done.returncode == 0 else last_line(done.stderr)
    frozen = subprocess.run(
        [python(name), "-m", "pip", "freeze"], capture_output=True, text=True
    ).stdout.split()
    return {"requires": COMMON + REQUIRES[name], "reason": reason, "installed": len(frozen)}


def last_line(text: str) -> str:
    return next((line for line in reversed(text.splitlines()) if line.strip()), "no reason given")
