"""Resolve the dependencies of setup.cfg into the two lock files: `make lock`.

Needs `uv` on the PATH or in the environment (pip install uv); it is no dependency, since locks are made rarely.
"""

import configparser
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def wanted(text: str) -> list[str]:
    return [line.strip() for line in text.splitlines() if line.strip() and not line.strip().startswith("#")]


def main() -> int:
    metadata = configparser.ConfigParser()
    metadata.read(ROOT / "setup.cfg")
    serve = wanted(metadata["options"]["install_requires"])
    develop = serve + [line for extra in metadata["options.extras_require"].values() for line in wanted(extra)]
    for lines, lock, constraint in (
        (serve, "requirements.lock", None),
        (develop, "requirements-dev.lock", "requirements.lock"),
    ):
        with tempfile.NamedTemporaryFile("w", suffix=".in") as listed:
            listed.write("\n".join(lines) + "\n")
            listed.flush()
            command = [
                "uv",
                "pip",
                "compile",
                "--universal",
                "--python-version",
                "3.11",
                "--generate-hashes",
                "--quiet",
            ]
            command += ["--no-header", "--no-annotate", "--no-emit-index-url", "--no-emit-find-links", "--upgrade"]
            command += [*(["-c", str(ROOT / constraint)] if constraint else []), listed.name, "-o", str(ROOT / lock)]
            if subprocess.run(command, check=False).returncode:
                return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
