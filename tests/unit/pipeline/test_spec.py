"""The spec: what is accepted, what is refused, and at which line."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from pipeline import spec_errors
from pipeline.spec import (
    BadReference,
    BadSize,
    SpecNotReadable,
    SpecNotToml,
    SpecUnknownKey,
    SpecWrongType,
    json_schema,
    parse_reference,
    parse_spec,
    placeholders,
    read_spec,
    seconds,
    size_bytes,
)
from pipeline.spec_references import dependencies, local_files
from provenance.errors import SpecError

HEAD = """\
schema = "rvp/spec/v1"
[project]
name = "hello"
version = "1"
[base.t]
debian = { suites = ["bookworm"], packages = ["gcc"] }
[source.app]
path = "src"
"""
STEP = """\
[[step]]
id = "a"
base = "t"
needs = ["source.app"]
run = ["make", "-C", "{source.app}", "OUT={out}"]
outputs = ["a"]
"""

BAD = {
    "unknown key": (HEAD + STEP + 'need = ["x"]\n', SpecUnknownKey, 15, 'did you mean "needs"?'),
    "unknown key in a named part": (
        HEAD + '[source.b]\npth = "x"\n',
        SpecUnknownKey,
        10,
        '"path"',
    ),
    "wrong type": (HEAD + STEP.replace('"t"', "3"), SpecWrongType, 11, "expected `str`, got `int`"),
    "not TOML": (HEAD + "[[step]\n", SpecNotToml, 9, "not TOML"),
    "duplicate key": (HEAD + 'path = "y"\n', SpecNotToml, 9, "overwrite"),
    "missing key": (HEAD + '[[step]]\nid = "a"\n', SpecWrongType, 9, "missing required field"),
    "two ways for a base": (
        HEAD.replace("[source", 'image = "x:1"\n[source'),
        spec_errors.ExactlyOne,
        5,
        "debian and image",
    ),
    "no way for a source": (
        HEAD + "[source.b]\n",
        spec_errors.ExactlyOne,
        9,
        "found none",
    ),
    "duplicate id": (HEAD + STEP + STEP, spec_errors.DuplicateName, 16, "two parts"),
    "unknown base": (HEAD + STEP.replace('base = "t"', 'base = "tt"'), spec_errors.UnknownPart, 11, '"t"?'),
    "unknown need": (
        HEAD + STEP.replace('needs = ["source.app"]', 'needs = ["source.ap"]'),
        spec_errors.UnknownPart,
        12,
        'did you mean "source.app"?',
    ),
    "need of a measurement": (
        HEAD
        + STEP.replace('["source.app"]', '["measure.m"]')
        + '[[measure]]\nid = "m"\ntee = "sgx"\nimage = "step.a:a"\n',
        spec_errors.UnknownPart,
        12,
        "cannot be needed",
    ),
    "cycle": (
        HEAD
        + STEP.replace('["source.app"]', '["step.b"]').replace("{source.app}", "x")
        + '[[step]]\nid = "b"\nbase = "t"\nneeds = ["step.a"]\nrun = ["x"]\noutputs = ["x"]\n',
        spec_errors.Cycle,
        9,
        "step.a → step.b → step.a",
    ),
    "step that needs itself": (
        HEAD + STEP.replace('["source.app"]', '["step.a"]').replace("{source.app}", "x"),
        spec_errors.Cycle,
        9,
        "step.a → step.a",
    ),
    "no outputs": (
        HEAD + STEP.replace('outputs = ["a"]', "outputs = []"),
        spec_errors.NoOutputs,
        14,
        "no outputs",
    ),
    "absolute output": (HEAD + STEP.replace('["a"]', '["/a"]'), spec_errors.PathOutside, 14, "absolute"),
    "output that climbs out": (
        HEAD + STEP.replace('["a"]', '["b/../../a"]'),
        spec_errors.PathOutside,
        14,
        "..",
    ),
    "absolute source": (HEAD.replace('"src"', '"/src"'), spec_errors.PathOutside, 8, "absolute"),
    "source that climbs out": (HEAD.replace('"src"', '"../src"'), spec_errors.PathOutside, 8, ".."),
    "unknown placeholder": (
        HEAD + STEP.replace('needs = ["source.app"]\n', ""),
        spec_errors.UnknownPlaceholder,
        12,
        "source.app",
    ),
    "unknown variation": (
        HEAD + STEP + '[rebuild]\nvary = ["host-name"]\n',
        spec_errors.UnknownVariation,
        16,
        '"hostname"?',
    ),
    "unknown fixed variation": (
        HEAD + STEP + 'fixed = ["tmie"]\n',
        spec_errors.UnknownVariation,
        15,
        '"time"?',
    ),
    "bad size": (HEAD + STEP + 'limits = { memory = "2 gigs" }\n', BadSize, 15, "2 gigs"),
    "bare number as a time": (HEAD + STEP + 'limits = { time = "60" }\n', BadSize, 15, '"60"'),
    "no processors": (HEAD + STEP + "limits = { cpus = 0 }\n", spec_errors.BadValue, 15, "1 to 4096"),
    "no rebuilds": (HEAD + STEP + "[rebuild]\ntimes = 0\n", spec_errors.BadValue, 16, "times is 0"),
    "unknown TEE": (
        HEAD + STEP + '[[measure]]\nid = "m"\ntee = "sxg"\nimage = "step.a:a"\n',
        spec_errors.BadValue,
        17,
        'did you mean "sgx"?',
    ),
    "measurement of nothing": (
        HEAD + STEP + '[[measure]]\nid = "m"\ntee = "sgx"\n',
        spec_errors.BadValue,
        15,
        "measures nothing",
    ),
    "git without rev": (
        HEAD + '[source.b]\ngit = "https://example.org/x.git"\n',
        spec_errors.BadValue,
        9,
        "git and rev",
    ),
    "url over http": (
        HEAD + '[source.b]\nurl = "http://example.org/x"\n',
        spec_errors.BadValue,
        10,
        "https://",
    ),
    "sha256 that is none": (
        HEAD + '[source.b]\nurl = "https://example.org/x"\nsha256 = "abc"\n',
        spec_errors.BadValue,
        11,
        "not a SHA-256",
    ),
    "a size beyond all machines": (
        HEAD + STEP + 'limits = { memory = "999999999999999TiB" }\n',
        BadSize,
        15,
        "more than any machine",
    ),
    "a time beyond all clocks": (
        HEAD + STEP + 'limits = { time = "999999999d" }\n',
        BadSize,
        15,
        "more than any machine",
    ),
    "processes beyond all kernels": (
        HEAD + STEP + "limits = { pids = 99999999999999999999 }\n",
        spec_errors.BadValue,
        15,
        "pids is 9",
    ),
    "a variable that is two": (
        HEAD + STEP + 'environment = { "A=B" = "x" }\n',
        spec_errors.BadValue,
        15,
        "not the name of a variable",
    ),
    "a NUL in a command": (HEAD + STEP.replace("OUT=", "\\u0000"), spec_errors.BadValue, 9, "NUL"),
    "a project whose name has an escape": (
        HEAD.replace('name = "hello"', 'name = "\\u001b[2J"'),
        spec_errors.BadValue,
        3,
        "is not a name",
    ),
    "bad name": (HEAD + STEP.replace('id = "a"', 'id = "a b"'), spec_errors.BadValue, 10, "not a name"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_spec_is_refused_with_its_line(case: str) -> None:
    text, kind, line, words = BAD[case]
    with pytest.raises(kind) as caught:
        parse_spec(text.encode(), name="rvp.toml")
    assert words in caught.value.message
    assert caught.value.place.startswith(f"rvp.toml:{line}"), caught.value.place
    assert caught.value.exit_code == 3


def test_a_missing_spec_says_how_to_make_one(tmp_path: Path) -> None:
    with pytest.raises(SpecNotReadable) as caught:
        read_spec(tmp_path / "rvp.toml")
    assert "rvp init" in caught.value.hint
    assert caught.value.exit_code == 3


def test_dependencies_follow_every_reference() -> None:
    spec = parse_spec(
        (
            HEAD
            + STEP
            + """
[[pack]]
id = "p"
kind = "sgx"
output = "enclave.signed.so"
image = "step.a:a"
config = "enclave.toml"
[[pack]]
id = "o"
kind = "oci"
output = "image"
base = "base.t"
files = { "/bin/a" = "step.a:a", "/etc/conf" = "conf/x" }
[[measure]]
id = "m"
tee = "sgx"
image = "pack.p:enclave.signed.so"
sigstruct = "signature.bin"
"""
        ).encode()
    )
    assert dependencies(spec) == {
        "base.t": (),
        "source.app": (),
        "step.a": ("base.t", "source.app"),
        "pack.p": ("step.a",),
        "pack.o": ("base.t", "step.a"),
        "measure.m": ("pack.p",),
    }
    assert local_files(spec) == ("conf/x", "enclave.toml", "signature.bin")


def test_references() -> None:
    assert parse_reference("step.a:x/y").path == "x/y"
    assert parse_reference("./step.a").kind == "file"
    assert parse_reference("step.a").node == "step.a"
    for text in ("step.a:../x", "step.a:/x", "", "/etc/passwd", "../x", "a\nb", "step.a:"):
        with pytest.raises(BadReference):
            parse_reference(text)


def test_only_our_placeholders_are_found() -> None:
    assert placeholders("{out}/x {source.app} ${out} ${HOME} {other} {a.b}") == ("out", "source.app")


@pytest.mark.parametrize("text", ["", "2", "GiB", "-1GiB", "1.5GiB", "2Gi", "2gib", "1e3B"])
def test_a_size_needs_a_number_and_a_unit(text: str) -> None:
    with pytest.raises(BadSize):
        size_bytes(text)


@pytest.mark.parametrize("text", ["", "2", "h", "-1h", "1.5h", "1s1h", "1 hour"])
def test_a_time_needs_a_number_and_a_unit(text: str) -> None:
    with pytest.raises(BadSize):
        seconds(text)


def test_every_spec_error_has_its_own_code_in_the_range() -> None:
    ours = [
        e for e in SpecError.registry.values() if e.__module__ in {"pipeline.spec", "pipeline.spec_errors"}
    ]
    assert all(error.code.startswith("RVP-11") and "Cure:" in (error.__doc__ or "") for error in ours)
    assert len(ours) > 10


def test_the_schema_accepts_what_the_reader_accepts() -> None:
    import tomllib

    import jsonschema

    schema = json_schema()
    json.dumps(schema)
    jsonschema.Draft202012Validator.check_schema(schema)
    jsonschema.validate(tomllib.loads(HEAD + STEP), schema)
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(tomllib.loads(HEAD + STEP + "need = []\n"), schema)
