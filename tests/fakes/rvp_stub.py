"""Stands in for rvp in tests of workflow files: takes the options that the files use, and refuses others.

`summary` is the real one. RVP_STUB_BUILD and RVP_STUB_VERIFY are the exit codes of these commands.
"""

import json
import os
import stat
import sys
from pathlib import Path

VALUES = {
    "tee": "sgx",
    "subject": {"name": "enclave.signed.so", "digest": {"sha256": "aa" * 32}},
    "claims": {"mrenclave": "ab" * 32, "isvprodid": 1},
}

DIVERGENCE = {
    "schema": "rvp/divergence/v1",
    "faults": [
        {
            "node": "step.enclave",
            "differing": ["enclave.so"],
            "report": {
                "schema": "rvp/difference/v1",
                "labels": ["run 1", "run 2"],
                "differences": [{"path": "enclave.so", "kind": "elf", "where": "section .text"}],
            },
        }
    ],
}


def main(arguments: list[str]) -> int:
    if arguments[:1] == ["summary"]:
        os.execv(sys.executable, [sys.executable, "-m", "rvp", *arguments])
    assert arguments[0] == "-C", arguments
    os.chdir(arguments[1])
    match arguments[2:]:
        case ["lock", "--check"]:
            assert Path("rvp.toml").exists()
        case ["build", "--format", "json"]:
            assert "RVP_SIGNING_KEY" not in os.environ or "CI_PROJECT_DIR" in os.environ
            status = int(os.environ.get("RVP_STUB_BUILD", "0"))
            document = {
                "schema": "rvp/build/v1",
                "project": "keyservice",
                "version": "1.2.0",
                "verdict": "diverged" if status else "reproduced",
                "nodes": [{"node": "step.enclave", "verdict": "diverged" if status else "reproduced"}],
                "measurements": [{"node": "measure.enclave", "measurements": [VALUES]}],
            }
            Path(".rvp/build").mkdir(parents=True)
            Path(".rvp/build/result.json").write_text(json.dumps(document))
            if status:
                Path(".rvp/build/difference.json").write_text(json.dumps(DIVERGENCE))
            sys.stdout.write(json.dumps(document) + "\n")
            return status
        case ["sign", "--key", key, "--builder-id", builder]:
            assert builder == os.environ["RVP_STUB_BUILDER"]
            assert stat.S_IMODE(Path(key).stat().st_mode) == 0o600
            assert Path(key).read_text() == "the key\n"
            assert "the key" not in "".join(os.environ.values())
            assert Path(".rvp/build/result.json").exists()
            Path(".rvp/statements").mkdir()
            Path(".rvp/statements/values.sigstore.json").write_text("{}")
            sys.stdout.write(f"key was {key}\n")
        case ["publish", folder]:
            assert Path(".rvp/build/result.json").exists()
            assert Path(".rvp/statements/values.sigstore.json").exists()
            Path(folder).mkdir(parents=True)
            (Path(folder) / "index.json").write_text("{}")
        case ["verify", folder, "--policy", policy, "--format", "json"]:
            assert (Path(folder) / "index.json").exists()
            assert Path(policy).exists()
            status = int(os.environ.get("RVP_STUB_VERIFY", "0"))
            verdict = {0: "passed", 20: "inconclusive"}.get(status, "failed")
            check = {"id": "quorum", "status": verdict if status != 20 else "skipped", "got": "1"}
            document = {
                "schema": "rvp/verification/v1",
                "verdict": verdict,
                "exit_code": status,
                "checks": [check],
            }
            sys.stdout.write(json.dumps(document) + "\n")
            return status
        case other:
            raise AssertionError(f"the stub does not know: {other}")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
