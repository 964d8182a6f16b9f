"""Fuzz one target for as long as you like: `python tests/fuzz/run.py TARGET [atheris options] [corpus …]`."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))


def main() -> None:
    try:
        import atheris
    except ModuleNotFoundError:
        sys.exit("atheris is not installed: pip install atheris")
    with atheris.instrument_imports(include=["provenance", "verifier", "pipeline"]):
        from tests.fuzz.mutations import mutate
        from tests.fuzz.targets import SEEDS, TARGETS
    if len(sys.argv) < 2 or sys.argv[1] not in TARGETS:
        sys.exit(f"usage: run.py TARGET …; targets: {', '.join(TARGETS)}")
    name = sys.argv.pop(1)
    corpus = Path(f".fuzz-{name}")
    corpus.mkdir(exist_ok=True)
    for number, seed in enumerate(SEEDS[name]):
        (corpus / f"seed-{number}").write_bytes(seed)
    for number in range(50):
        (corpus / f"mutation-{number}").write_bytes(mutate(SEEDS[name], number))
    atheris.Setup([*sys.argv, str(corpus)], TARGETS[name])
    atheris.Fuzz()


if __name__ == "__main__":
    main()
