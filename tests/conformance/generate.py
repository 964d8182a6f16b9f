"""Write the conformance cases: `python tests/conformance/generate.py`. The same bytes each time.

The keys come from a seed that stands here: they protect nothing.
"""

import base64
import hashlib
import json
import shutil
import sys
import tarfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))

from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from msgspec.structs import replace

from provenance.bundle import Bundle, merge, pack_files, write_bundle
from provenance.canonical import canonical_json
from provenance.claims import Unpredicted
from provenance.digest import hash_bytes, sha256
from provenance.dsse import IN_TOTO, sign_payload
from provenance.measurement_log import LogEvent, MeasurementLog
from provenance.oci import blob_of
from provenance.oci_reader import read_layout
from provenance.predicates.constraint import Constraint, Mask
from provenance.predicates.core import Core, Layer, MeasurementSet, Source, core_digest
from provenance.predicates.reference_values import (
    Builder,
    LogReference,
    Measurer,
    Rebuild,
    ReferenceValues,
    make_reference_values,
)
from provenance.predicates.release import Release, Validity, make_release
from provenance.predicates.shapes import ArtifactDigest, ArtifactSubject, Sha256Digest
from provenance.public_key import public_key_of
from provenance.signers.key_file import KeyFileSigner
from provenance.sigstore_bundle import SigstoreBundle, sign_statement
from provenance.sigstore_bundle import read_bundle as read_sigstore
from provenance.statement import ResourceDescriptor, make_statement, read_statement

HERE = Path(__file__).parent
SEED = b"rvp conformance"
REPOSITORY = "https://example.org/keyservice.git"
ARTIFACT = b"an enclave, for all we know\n"
AT = "2026-03-01T00:00:00Z"
NAMES = ("acme", "auditor", "third", "fourth", "stranger", "release-a", "release-b", "reviewer")


def signer(name: str) -> KeyFileSigner:
    number = int.from_bytes(hashlib.sha256(SEED + name.encode()).digest(), "big") % (2**255) + 1
    key = ec.derive_private_key(number, ec.SECP256R1())
    return KeyFileSigner(key, public_key_of(key.public_key()))


# ---- git objects, signed with an SSH key ------------------------------------------------------------


def ssh_key(name: str) -> tuple[ed25519.Ed25519PrivateKey, str]:
    key = ed25519.Ed25519PrivateKey.from_private_bytes(hashlib.sha256(SEED + b"ssh" + name.encode()).digest())
    return key, key.public_key().public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH).decode()


def ssh_sign(name: str, payload: bytes) -> bytes:
    key, line = ssh_key(name)

    def strings(*parts: bytes) -> bytes:
        return b"".join(len(part).to_bytes(4, "big") + part for part in parts)

    head = (b"git", b"", b"sha512")
    raw = key.sign(b"SSHSIG" + strings(*head, hashlib.sha512(payload).digest()))
    blob = b"SSHSIG\0\0\0\1" + strings(base64.b64decode(line.split()[1]), *head, strings(b"ssh-ed25519", raw))
    text = base64.b64encode(blob).decode()
    lines = [text[at : at + 70] for at in range(0, len(text), 70)]
    return "\n".join(["-----BEGIN SSH SIGNATURE-----", *lines, "-----END SSH SIGNATURE-----", ""]).encode()


def recipe_files(argument: str = "all") -> dict[str, bytes]:
    spec = f'schema = "rvp/spec/v1"\n# make {argument}\n'.encode()
    lock = b"# pinned\n"
    core = {
        "schema": "rvp/recipe/v1", "project": "keyservice", "version": "1.2.0", "source_date_epoch": 1770000000,
        "spec": sha256(spec).hex(), "lock": sha256(lock).hex(), "files": {}, "sources": {"app": "ab" * 32},
    }  # fmt: skip
    origin = {"schema": "rvp/recipe-origin/v1", "repository": REPOSITORY, "files": [], "sources": []}
    return {
        "recipe.json": canonical_json(core),
        "origin.json": canonical_json(origin),
        "rvp.toml": spec,
        "rvp.lock": lock,
    }


RECIPE = recipe_files()


WHO = b"Maintainer <maintainer@example.org> 1770000000 +0000"


def git_id(kind: str, data: bytes) -> str:
    return hashlib.sha1(b"%s %d\0" % (kind.encode(), len(data)) + data).hexdigest()


def git_tree(*entries: tuple[bytes, str, bytes]) -> bytes:
    return b"".join(
        b"%s %s\0" % (mode, name.encode()) + bytes.fromhex(git_id(kind, data))
        for mode, name, kind, data in (
            (mode, name, "tree" if mode == b"40000" else "blob", data) for mode, name, data in entries
        )
    )


PROJECT = git_tree(*((b"100644", name, RECIPE[name]) for name in ("rvp.lock", "rvp.toml")))
ROOT_TREE = git_tree((b"100644", "README", b"hello"), (b"40000", "enclave", PROJECT))
COMMIT = b"tree %s\nauthor %s\ncommitter %s\n\nRelease 1.2.0\n" % (
    git_id("tree", ROOT_TREE).encode(),
    WHO,
    WHO,
)
COMMIT_ID = git_id("commit", COMMIT)


def tag(by: str | None = "maintainer", name: str = "v1.2.0", commit: str = COMMIT_ID) -> bytes:
    payload = (
        f"object {commit}\ntype commit\ntag {name}\n".encode() + b"tagger " + WHO + b"\n\nRelease 1.2.0\n"
    )
    return payload + (ssh_sign(by, payload) if by else b"")


def git_inputs(signed_tag: bytes):
    return (
        blob_of(COMMIT, "", title="git/app/commit"),
        blob_of(signed_tag, "", title="git/app/tag"),
        blob_of(ROOT_TREE, "", title="git/app/tree/0"),
        blob_of(PROJECT, "", title="git/app/tree/1"),
    )


# ---- what is said -----------------------------------------------------------------------------------


def core(*, value: str = "11", unpredicted: bool = False, recipe=RECIPE, **changes) -> Core:
    digests = hash_bytes(ARTIFACT)
    layer = Layer(name="workload", provider="keyservice")
    made = [
        MeasurementSet(
            id="sgx/enclave.so", tee="sgx", subject="enclave.so", layer=layer,
            claims={"mrenclave": Constraint(exact=value * 32), "isvsvn": Constraint(exact=1)},
        )
    ]  # fmt: skip
    if unpredicted:
        event = Unpredicted(register="rtmr0", event="acpi-tables", reason="the host writes them")
        made.append(
            MeasurementSet(
                id="tdx/enclave.so", tee="tdx", subject="enclave.so", layer=layer,
                claims={"mrtd": Constraint(exact="22" * 48)}, unpredicted=(event,),
            )
        )  # fmt: skip
    source = Source(
        name="app", repository=REPOSITORY, ref="refs/tags/v1.2.0", commit=COMMIT_ID,
        tree_digest=Sha256Digest(sha256="ab" * 32),
    )  # fmt: skip
    source_changes = {
        key: changes.pop(key) for key in list(changes) if key in {"repository", "ref", "dirty", "commit"}
    }
    return replace(
        Core(
            product="keyservice",
            recipe_digest=Sha256Digest(sha256=sha256(recipe["recipe.json"]).hex()),
            sources=(replace(source, **source_changes),),
            subjects=(
                ArtifactSubject(
                    name="enclave.so",
                    digest=ArtifactDigest(sha256=digests.sha256.hex(), sha384=digests.sha384.hex()),
                ),
            ),
            sets=tuple(made),
        ),
        **changes,
    )


CORE = core()


def masked(value: str, mask: str) -> Constraint:
    return Constraint(mask=Mask(value=value, mask=mask))


def claiming(changes: dict[str, Constraint | None]) -> Core:
    """The core with other claims in its set; None removes one."""
    claims = {name: one for name, one in (CORE.sets[0].claims | changes).items() if one is not None}
    return replace(CORE, sets=(replace(CORE.sets[0], claims=claims),))


def values(by: str, said: Core = CORE, *, level: str = "reproduced", key: str = "", logs=()) -> bytes:
    rebuild = Rebuild(runs=2, exercised=("hostname", "time")) if level == "reproduced" else None
    predicate = ReferenceValues(
        core=said, level=level, builder=Builder(id=f"https://{by}.example/builder"),
        measurer=Measurer(name="rvp", version="0.1.0"), rebuild=rebuild, logs=logs,
    )  # fmt: skip
    return sign_statement(make_reference_values(predicate), signer(key or by)).to_json()


def release(by: str, said: Core = CORE, **changes) -> bytes:
    span = (
        changes.pop("not_before", "2026-02-01T00:00:00Z"),
        changes.pop("not_after", "2026-08-01T00:00:00Z"),
    )
    predicate = Release(
        product="keyservice", series="stable", sequence=7, version="1.2.0",
        validity=Validity(not_before=span[0], not_after=span[1]),
        core_digest=Sha256Digest(sha256=core_digest(said).hex()),
    )  # fmt: skip
    return sign_statement(make_release(replace(predicate, **changes), said), signer(by)).to_json()


def other(by: str, kind: str, subjects=CORE.subjects, *, result: str = "PASSED") -> bytes:
    listed = [
        ResourceDescriptor(name=one.name, digest={"sha256": one.digest.sha256, "sha384": one.digest.sha384})
        for one in subjects
    ]
    return sign_statement(make_statement(listed, kind, {"result": result}), signer(by)).to_json()


MALFORMED = ("type", "signatures")


def malformed(by: str, way: str, *, hint: str = "") -> bytes:
    """Sign with another payload type, or write two signatures where one is expected."""
    key, payload = signer(by), read_sigstore(values(by)).envelope.payload
    kind = "application/x-rvp-test" if way == "type" else IN_TOTO
    made = SigstoreBundle(
        envelope=sign_payload(payload, key, payload_type=kind), hint=signer(hint or by).public_key.hint
    )
    document = json.loads(made.to_json())
    if way == "signatures":
        document["dsseEnvelope"]["signatures"] *= 2
    return json.dumps(document).encode()


def log(value: str) -> tuple[bytes, LogReference]:
    event = LogEvent(op="ECREATE", length=4096, flags=1)
    made = MeasurementLog(tee="sgx", register="mrenclave", algorithm="sha256", value=value, events=(event,))
    data = canonical_json(made)
    digest = Sha256Digest(sha256=sha256(data).hex())
    return data, LogReference(name="enclave.json", tee="sgx", register="mrenclave", digest=digest)


RELEASES = (release("release-a"), release("release-b"))


def bundle(*statements: bytes, releases=RELEASES, recipe=RECIPE, signed_tag: bytes | None = None) -> Bundle:
    return Bundle(
        statements=(*statements, *releases),
        recipe=pack_files(recipe),
        inputs=git_inputs(tag() if signed_tag is None else signed_tag),
    )


# ---- policies ---------------------------------------------------------------------------------------

POLICY = """schema = "rvp/policy/v1"

[product]
name = "keyservice"
series = "stable"
minimum_release = 7

[source]
repository = "https://example.org/keyservice.git"
refs = ["refs/tags/v*"]
signed_by = ["../../keys/maintainer.pub"]

[quorum]
n = 2

[[operator]]
name = "acme"
key = "../../keys/acme.pub"
builder_id = "https://acme.example/builder"

[[operator]]
name = "auditor"
key = "../../keys/auditor.pub"

[release]
signed_by = ["../../keys/release-a.pub", "../../keys/release-b.pub"]
threshold = 2
"""
REQUIRE = (
    '\n[[require]]\npredicate_type = "https://in-toto.io/attestation/test-result/v0.1"\n'
    'signed_by = ["../../keys/reviewer.pub"]\n'
)


def policy(*changes: tuple[str, str], operators: tuple[str, ...] = (), more: str = "") -> str:
    text = POLICY
    for old, new in changes:
        assert old in text, old
        text = text.replace(old, new, 1)
    for name in operators:
        text += f'\n[[operator]]\nname = "{name}"\nkey = "../../keys/{name}.pub"\n'
    return text + more


LIBRARY = "https://example.org/library.git"
_ALSO = f'[[source.also]]\nrepository = "{LIBRARY}"\nrefs = ["refs/tags/v*"]\n'
FURTHER_UNSIGNED = POLICY.replace("[quorum]", f"{_ALSO}\n[quorum]")
FURTHER = POLICY.replace("[quorum]", f'{_ALSO}signed_by = ["../../keys/librarian.pub"]\n\n[quorum]')


def with_library(*, ref: str = "refs/tags/v1.2.0", signed_by: str | None = "librarian") -> Bundle:
    """The product, built from a library of another repository as well."""
    recipe = dict(RECIPE)
    recipe["recipe.json"] = canonical_json(
        json.loads(RECIPE["recipe.json"]) | {"sources": {"app": "ab" * 32, "lib": "cd" * 32}}
    )
    said = core(recipe=recipe)
    library = replace(
        said.sources[0], name="lib", repository=LIBRARY, ref=ref, tree_digest=Sha256Digest(sha256="cd" * 32)
    )
    said = replace(said, sources=(*said.sources, library))
    made = bundle(
        values("acme", said),
        values("auditor", said),
        releases=(release("release-a", said), release("release-b", said)),
        recipe=recipe,
    )
    signed = (
        blob_of(COMMIT, "", title="git/lib/commit"),
        blob_of(tag(by=signed_by), "", title="git/lib/tag"),
    )
    return replace(made, inputs=(*made.inputs, *signed))


# ---- writing cases ----------------------------------------------------------------------------------

CASES = HERE / "verify"
FORM = "bundle.tar"


def case(
    name: str,
    made: Bundle | None,
    *,
    failing: tuple[str, ...] = (),
    warnings: tuple[str, ...] = (),
    exit_code: int = 0,
    policy_text: str | None = POLICY,
    artifact: bytes | None = ARTIFACT,
    at: str = AT,
    form: str = FORM,
    what: str,
) -> Path:
    folder = CASES / name
    folder.mkdir(parents=True)
    if made is not None:
        write_bundle(folder / form, made)
    if policy_text is not None:
        (folder / "policy.toml").write_text(policy_text)
    if artifact is not None:
        (folder / "enclave.so").write_bytes(artifact)
    verdict = {0: "passed", 20: "inconclusive", 2: None}.get(exit_code, "failed")
    expect = {
        "what": what,
        "bundle": form,
        "policy": "policy.toml" if policy_text is not None else None,
        "artifacts": ["enclave.so"] if artifact is not None else [],
        "at": at,
        "exit_code": exit_code,
        "verdict": verdict,
        "failing": list(failing),
        "warnings": list(warnings),
    }
    (folder / "expect.json").write_text(json.dumps(expect, indent=2) + "\n")
    return folder


def edit_blob(folder: Path, old: bytes, new: bytes) -> None:
    """Change bytes inside an archive, blindly."""
    data = (folder / FORM).read_bytes()
    assert old in data
    assert len(old) == len(new)
    (folder / FORM).write_bytes(data.replace(old, new, 1))


def tar_header(name: bytes, size: bytes, kind: bytes = b"0") -> bytes:
    block = bytearray(tarfile.TarInfo("x").tobuf(tarfile.USTAR_FORMAT))
    block[:100] = name.ljust(100, b"\0")
    block[124:136] = size
    block[156:157] = kind
    block[148:156] = b" " * 8
    block[148:156] = b"%06o\0 " % sum(block)
    return bytes(block)


def generate() -> None:
    shutil.rmtree(CASES, ignore_errors=True)
    keys = HERE / "keys"
    shutil.rmtree(keys, ignore_errors=True)
    keys.mkdir()
    for name in NAMES:
        (keys / f"{name}.pub").write_bytes(signer(name).public_key.pem)
    for name in ("maintainer", "librarian"):
        (keys / f"{name}.pub").write_text(f"{ssh_key(name)[1]} {name}\n")
    both = (values("acme"), values("auditor"))
    good = bundle(*both)

    case("two-of-two", good, what="two operators agree, two release signers, a signed tag")
    case("folder", good, form="bundle", what="the same as a folder")
    case("no-artifact", good, artifact=None, what="no file is asked about")
    case(
        "unknown-predicate",
        bundle(*both, other("acme", "https://example.org/later/v9")),
        what="a statement of an unknown type is ignored",
    )
    case(
        "stranger",
        bundle(*both, values("stranger", core(value="99"))),
        what="an unknown signer counts for nothing",
    )
    case(
        "stranger-malformed", bundle(*both, *(malformed("stranger", way) for way in MALFORMED)),
        what="unknown signers who sign no statement, or write no Sigstore bundle, have no veto",
    )  # fmt: skip
    two_of_three = policy(operators=("third",))
    other_values = core(value="33")
    case(
        "dissent", bundle(*both, values("third", other_values)), policy_text=two_of_three, warnings=("dissent",),
        what="2 of 3 agree, the third says something else: told, no veto",
    )  # fmt: skip
    case(
        "equivocation", bundle(*both, values("third"), values("third", other_values)), policy_text=two_of_three,
        warnings=("equivocation",), what="the third says two things: told, not counted",
    )  # fmt: skip
    case(
        "minority-quorum", bundle(*both),
        policy_text=policy(("n = 2", "n = 2\nminority_quorum = true"), operators=("third", "fourth")),
        warnings=("policy",), what="2 of 4, as the policy says: every verdict prints it",
    )  # fmt: skip
    allowed = '\n[evidence.tdx]\nallow_unpredicted = ["acpi-tables"]\n'
    hole = core(unpredicted=True)
    with_hole = bundle(
        values("acme", hole),
        values("auditor", hole),
        releases=(release("release-a", hole), release("release-b", hole)),
    )
    case(
        "unpredicted-allowed", with_hole, policy_text=policy(more=allowed), what="the policy allows the event"
    )
    review = "https://in-toto.io/attestation/test-result/v0.1"
    case(
        "required", bundle(*both, other("reviewer", review)), policy_text=policy(more=REQUIRE),
        what="the required review is there",
    )  # fmt: skip
    case(
        "max-age", good, policy_text=policy(("minimum_release = 7", 'max_age = "30d"')),
        what="released 28 days ago, 30 are accepted",
    )  # fmt: skip
    case(
        "validity-last-second",
        good,
        at="2026-08-01T00:00:00Z",
        what="the last second of the validity belongs to it",
    )

    debug = "0x00000000000000040000000000000003"
    for name, claims, status, what in (
        ("open-debug", {"attributes": masked(debug, "0xfffffffffffffffd0000000000000000")}, "warning", "the mask of ATTRIBUTES leaves DEBUG open"),
        ("closed-debug", {"attributes": masked(debug, "0xffffffffffffffff0000000000000000")}, "", "the mask of ATTRIBUTES closes DEBUG"),
        ("debug-enclave", {"attributes": Constraint(exact="0x00000000000000060000000000000003")}, "warning", "the values are those of a debug enclave"),
        ("minimum-zero", {"isvsvn": Constraint(minimum=0)}, "warning", "a minimum of 0 is any"),
        ("minimum-one", {"isvsvn": Constraint(minimum=1)}, "", "a minimum of 1 is one"),
        ("no-mrenclave", {"mrenclave": None, "mrsigner": Constraint(exact="44" * 32)}, "warning", "whatever one signer signed is accepted"),
    ):  # fmt: skip
        made = claiming(claims)
        released = (release("release-a", made), release("release-b", made))
        case(
            name, bundle(values("acme", made), values("auditor", made), releases=released),
            warnings=("slack",) if status else (), what=what,
        )  # fmt: skip

    for name, changes, text, failing, what in (
        ("further-source", {}, FURTHER, (), "a library of a repository that the policy names, at an expected ref, signed"),
        ("further-unsigned", {"signed_by": None}, FURTHER_UNSIGNED, (), "a library whose signature is not asked for"),
        ("further-other-ref_fail", {"ref": "refs/heads/evil"}, FURTHER_UNSIGNED, ("source-ref",), "a branch of the library instead of a tag"),
        ("further-not-signed_fail", {"signed_by": None}, FURTHER, ("source-signature",), "the library's tag has no signature"),
        ("further-signed-by-other_fail", {"signed_by": "maintainer"}, FURTHER, ("source-signature",), "a maintainer of the application does not sign for the library"),
        ("further-not-named_fail", {}, POLICY, ("source-repository",), "a library of a repository that the policy does not name"),
    ):  # fmt: skip
        case(
            name, with_library(**changes), policy_text=text, failing=failing, exit_code=13 if failing else 0, what=what
        )  # fmt: skip

    # inconclusive: nothing failed, and nothing may pass
    case("no-policy", good, policy_text=None, exit_code=20, what="without a policy nothing is trusted")
    case("empty-bundle_fail", Bundle(), exit_code=20, what="a bundle that says nothing proves nothing")
    case(
        "no-freshness_fail", good, policy_text=policy(("minimum_release = 7\n", "")), exit_code=20,
        what="neither minimum_release nor max_age",
    )  # fmt: skip
    unreleased = policy(
        (
            '[release]\nsigned_by = ["../../keys/release-a.pub", "../../keys/release-b.pub"]\nthreshold = 2\n',
            "",
        )
    )
    case(
        "no-release-signers_fail", good, policy_text=unreleased, exit_code=20,
        what="minimum_release, and nobody whom the policy trusts with it",
    )  # fmt: skip

    # each check alone
    folder = case(
        "flipped-byte_fail", good, failing=("bundle",), exit_code=10, what="one byte of a statement flipped"
    )
    data = bytearray((folder / FORM).read_bytes())
    data[data.index(b'"dsseEnvelope"') + 40] ^= 1
    (folder / FORM).write_bytes(data)
    case(
        "one-signer_fail",
        bundle(both[0]),
        failing=("agreement",),
        exit_code=13,
        what="one operator where two are needed",
    )
    changed = bytes([ARTIFACT[0] ^ 1]) + ARTIFACT[1:]
    case(
        "artifact_fail",
        good,
        artifact=changed,
        failing=("artifacts",),
        exit_code=12,
        what="one byte of the file differs",
    )
    for name, change, check, what in (
        ("other-source_fail", {"repository": "https://example.org/evil.git"}, "source-repository", "another repository, honestly rebuilt by both"),
        ("no-repository_fail", {"repository": "", "commit": "", "ref": ""}, "source-repository", "a folder in no repository"),
        ("other-ref_fail", {"ref": "refs/heads/evil"}, "source-ref", "a branch instead of a tag"),
        ("other-product_fail", {"product": "other"}, "product", "another product"),
    ):  # fmt: skip
        made = core(**change)
        releases = tuple(release(by, made, product=made.product) for by in ("release-a", "release-b"))
        text = POLICY
        if check != "source-signature":
            text = policy(('signed_by = ["../../keys/maintainer.pub"]\n', ""))
        more = ("release",) if check == "product" else ()
        case(
            name, bundle(values("acme", made), values("auditor", made), releases=releases), policy_text=text,
            failing=(check, *more), exit_code=13, what=what,
        )  # fmt: skip
    only_product = core(product="other")
    case(
        "other-product-alone_fail", bundle(values("acme", only_product), values("auditor", only_product), releases=()),
        policy_text=unreleased, failing=("product",), exit_code=13, what="another product, and no release asked for",
    )  # fmt: skip
    dirty = core(dirty=True)
    case(
        "dirty-source_fail", bundle(values("acme", dirty), values("auditor", dirty), releases=()),
        policy_text=unreleased, failing=("source-ref",), exit_code=13, what="changes that are in no commit",
    )  # fmt: skip
    for name, signed_tag, what in (
        ("unsigned-tag_fail", tag(by=None), "the tag has no signature"),
        ("foreign-tag_fail", tag(by="stranger"), "the tag is signed by a stranger"),
        ("moved-tag_fail", tag(commit="00" * 20), "the signed tag names another commit"),
        ("renamed-tag_fail", tag(name="v1.1.0"), "the signed tag has another name than the ref"),
        ("broken-tag_fail", tag().replace(b"Release 1.2.0", b"Release 1.2.1"), "the tag was changed after it was signed"),
    ):  # fmt: skip
        case(
            name, bundle(*both, signed_tag=signed_tag), failing=("source-signature",), exit_code=13, what=what
        )
    case(
        "wrong-key_fail", bundle(values("acme", key="stranger"), values("auditor", key="fourth")),
        failing=("operators",), exit_code=10, what="both statements are signed by other keys",
    )  # fmt: skip
    case(
        "other-builder_fail", bundle(values("third", key="acme"), values("third", key="acme")), failing=("operators",),
        exit_code=10, what="the right key, another builder than the policy names",
    )  # fmt: skip
    forged = read_sigstore(values("third", core(value="99")))
    forged = replace(forged, hint=signer("acme").public_key.hint).to_json()
    case(
        "forged_fail", bundle(*both, forged), failing=("signatures",), exit_code=10,
        what="a statement that claims the key of acme and is signed by another",
    )  # fmt: skip
    for way in MALFORMED:
        case(
            f"malformed-{way}_fail", bundle(*both, malformed("stranger", way, hint="acme")), failing=("signatures",),
            exit_code=10, what="a malformed statement that claims the key of acme",
        )  # fmt: skip
    case(
        "malformed-signed_fail", bundle(*both, malformed("acme", "type", hint="stranger")), failing=("signatures",),
        exit_code=10, what="acme signed something that is no statement, under the hint of another key",
    )  # fmt: skip
    case(
        "replaced-recipe_fail", bundle(*both, recipe=recipe_files("evil")), failing=("recipe",), exit_code=13,
        what="the recipe is not the one that was signed",
    )  # fmt: skip
    swapped = RECIPE | {"rvp.toml": b"evil"}
    case(
        "replaced-spec_fail", bundle(*both, recipe=swapped), failing=("recipe",), exit_code=13,
        what="the spec is not the one that the recipe names",
    )  # fmt: skip
    for name, key, value, what in (
        ("other-tree_fail", "sources", {"app": "cd" * 32}, "the recipe has another tree than the operators say was built"),
        ("other-project_fail", "project", "other", "the recipe is of another product than the values"),
    ):  # fmt: skip
        swapped = RECIPE | {"recipe.json": canonical_json(json.loads(RECIPE["recipe.json"]) | {key: value})}
        made = core(recipe=swapped)
        released = (release("release-a", made), release("release-b", made))
        case(
            name, bundle(values("acme", made), values("auditor", made), releases=released, recipe=swapped),
            failing=("recipe",), exit_code=13, what=what,
        )  # fmt: skip
    evil = recipe_files("evil")
    built = core(recipe=evil)
    released = (release("release-a", built), release("release-b", built))
    own = bundle(values("acme", built), values("auditor", built), releases=released, recipe=evil)
    case(
        "other-spec_fail", own, failing=("recipe-committed",), exit_code=13,
        what="the signed source, built by both with a spec that is not in it",
    )  # fmt: skip
    case(
        "other-spec-accepted", own, what="a spec that is not in the source, and whose recipe the policy names",
        policy_text=policy(("[quorum]", f'recipes = ["{sha256(evil["recipe.json"]).hex()}"]\n\n[quorum]')),
    )  # fmt: skip
    case(
        "no-recipe_fail", replace(good, recipe=None), failing=("recipe-committed",), exit_code=13,
        what="a signed source, and nothing that shows what was done with it",
    )  # fmt: skip
    case(
        "recipe-not-accepted_fail", good, failing=("recipe",), exit_code=13,
        policy_text=policy(("[quorum]", f'recipes = ["{"0" * 64}"]\n\n[quorum]')), what="the policy accepts another recipe",
    )  # fmt: skip
    case(
        "equivocation-counts-not_fail", bundle(both[0], both[1], values("auditor", other_values)), failing=("agreement",),
        warnings=("equivocation",), exit_code=13, what="without the operator that equivocates n is not reached",
    )  # fmt: skip
    case(
        "conflict_fail", bundle(*both, values("third", other_values), values("fourth", other_values)),
        policy_text=policy(("n = 2", "n = 2\nminority_quorum = true"), operators=("third", "fourth")),
        failing=("conflict",), warnings=("policy",), exit_code=13, what="two against two, and two are enough",
    )  # fmt: skip
    only_measured = replace(CORE, recipe_digest=None, sources=())
    measured = Bundle(
        statements=(
            values("acme", only_measured, level="measured"), values("auditor", only_measured, level="measured"),
            release("release-a", only_measured), release("release-b", only_measured),
        )
    )  # fmt: skip
    case("measured-only_fail", measured, failing=("level",), exit_code=13, what="both only measured")
    accepts = policy(
        ("n = 2", 'n = 2\nlevel = "measured"'), ('signed_by = ["../../keys/maintainer.pub"]\n', "")
    )
    case(
        "measured-accepted", measured, policy_text=accepts, warnings=("source-repository", "source-ref"),
        what="both only measured, and the policy accepts it",
    )  # fmt: skip
    asks = policy(("n = 2", 'n = 2\nlevel = "measured"'))
    case(
        "measured-unsigned", measured, policy_text=asks, warnings=("source-repository", "source-ref", "source-signature"),
        what="a policy that accepts measured values and asks for a signed revision: told that there is none",
    )  # fmt: skip
    case(
        "unreleased_fail",
        bundle(*both, releases=()),
        failing=("release",),
        exit_code=13,
        what="nobody released it",
    )
    case(
        "one-release-signer_fail", bundle(*both, releases=RELEASES[:1]), failing=("release",), exit_code=13,
        what="one release signer where two are needed",
    )  # fmt: skip
    apart = (release("release-a"), release("release-b", sequence=8))
    case(
        "releases-apart_fail", bundle(*both, releases=apart), failing=("release",), exit_code=13,
        what="two signers released different sequence numbers",
    )  # fmt: skip
    strange = ResourceDescriptor(name="enclave.so", digest={"sha256": "00" * 32, "sha384": "00" * 48})
    elsewhere = tuple(
        sign_statement(make_statement((strange,), one.predicate_type, one.predicate), signer(by)).to_json()
        for by, one in (
            (by, read_statement(read_sigstore(data).envelope.payload))
            for by, data in zip(("release-a", "release-b"), RELEASES, strict=True)
        )
    )
    case(
        "release-about-other_fail", bundle(*both, releases=elsewhere), failing=("release",), exit_code=13,
        what="the release names the core and is about another artifact",
    )  # fmt: skip
    case(
        "operator-releases_fail", bundle(*both, releases=(RELEASES[0], release("acme"))), failing=("release",),
        exit_code=13, what="an operator is no release signer",
    )  # fmt: skip
    case(
        "withdrawn_fail", good, policy_text=policy(("minimum_release = 7", "minimum_release = 8")),
        failing=("sequence",), exit_code=13, what="release 7 where 8 is the lowest",
    )  # fmt: skip
    case(
        "other-series_fail", good, policy_text=policy(('"stable"', '"lts"')), failing=("sequence",), exit_code=13,
        what="a release of another series",
    )  # fmt: skip
    case(
        "expired_fail",
        good,
        at="2026-08-01T00:00:01Z",
        failing=("validity",),
        exit_code=13,
        what="one second too late",
    )
    case(
        "not-yet_fail",
        good,
        at="2026-01-31T23:59:59Z",
        failing=("validity",),
        exit_code=13,
        what="one second too early",
    )
    case(
        "stale_fail", good, policy_text=policy(("minimum_release = 7", 'max_age = "1w"')), failing=("freshness",),
        exit_code=13, what="released 28 days ago, 7 are accepted",
    )  # fmt: skip
    case(
        "unpredicted_fail",
        with_hole,
        failing=("unpredicted",),
        exit_code=13,
        what="an event that may not be unknown",
    )
    for name, value, exit_code, what in (
        ("log", "11" * 32, 0, "the log states the agreed value"),
        ("log-contradicts_fail", "99" * 32, 12, "the operators named a log that states another value"),
    ):  # fmt: skip
        data, reference = log(value)
        named = [values(by, logs=(reference,)) for by in ("acme", "auditor")]
        case(
            name, replace(bundle(*named), logs=(blob_of(data, "", title="enclave.json"),)), exit_code=exit_code,
            failing=("logs",) if exit_code else (), what=what,
        )  # fmt: skip
    data, _ = log("99" * 32)
    case(
        "log-of-nobody", replace(good, logs=(blob_of(data, "", title="enclave.json"),)),
        what="a log that nobody who agrees has named is told and not looked at",
    )  # fmt: skip
    case(
        "required-missing_fail", good, policy_text=policy(more=REQUIRE), failing=("require",), exit_code=13,
        what="the required review is missing",
    )  # fmt: skip
    failed = bundle(*both, other("reviewer", review, result="FAILED"))
    case(
        "required-says-no_fail", failed, policy_text=policy(more=REQUIRE), failing=("require",), exit_code=13,
        what="the required test result is there, and says that it failed",
    )  # fmt: skip
    strange = (ArtifactSubject(name="x", digest=ArtifactDigest(sha256="00" * 32, sha384="00" * 48)),)
    case(
        "required-about-other_fail", bundle(*both, other("reviewer", review, strange)), policy_text=policy(more=REQUIRE),
        failing=("require",), exit_code=13, what="the review is about another artifact",
    )  # fmt: skip

    # files that are not bundles
    folder = case(
        "truncated_fail", good, failing=("bundle",), exit_code=10, what="the archive is cut in the middle"
    )
    (folder / FORM).write_bytes((folder / FORM).read_bytes()[:5000])
    folder = case(
        "extra-file_fail",
        good,
        form="bundle",
        failing=("bundle",),
        exit_code=10,
        what="a file that nothing names",
    )
    (folder / "bundle" / "README").write_text("trust me\n")
    folder = case(
        "extra-blob_fail",
        good,
        form="bundle",
        failing=("bundle",),
        exit_code=10,
        what="a blob that nothing names",
    )
    (folder / "bundle" / "blobs" / "sha256" / sha256(b"extra").hex()).write_bytes(b"extra")
    folder = case(
        "missing-blob_fail", good, form="bundle", failing=("bundle",), exit_code=10, what="a blob is missing"
    )
    layout = read_layout(folder / "bundle")
    statement = next(m for m in layout.manifests if "sigstore" in m.artifact_type).layers[0]
    (folder / "bundle" / "blobs" / "sha256" / statement.digest.hex()).unlink()
    folder = case(
        "digest-mismatch_fail",
        good,
        form="bundle",
        failing=("bundle",),
        exit_code=10,
        what="a blob was replaced by another",
    )
    (folder / "bundle" / "blobs" / "sha256" / statement.digest.hex()).write_bytes(both[0] * 2)
    folder = case(
        "annotation_fail",
        good,
        failing=("bundle",),
        exit_code=10,
        what="an annotation in the index was changed",
    )
    edit_blob(
        folder,
        b'"dev.sigstore.bundle.content":"dsse-envelope"',
        b'"dev.sigstore.bundle.content":"dsse-enveloqe"',
    )
    raw = {
        "climbs-out_fail": (tar_header(b"blobs/sha256/../../../evil", b"00000000004\0") + b"evil".ljust(512, b"\0"), "a path climbs out"),
        "absolute-path_fail": (tar_header(b"/tmp/evil", b"00000000000\0"), "an absolute path"),
        "link_fail": (tar_header(b"index.json", b"00000000000\0", b"2"), "a symbolic link"),
        "huge-member_fail": (tar_header(b"blobs/sha256/" + b"a" * 64, b"\x80" + (10 << 30).to_bytes(11, "big")), "a member of 10 GiB, refused by its header"),
        "not-an-archive_fail": (b"PK\3\4" + bytes(600), "a zip file"),
        "no-index_fail": (b"", "an archive with nothing in it"),
    }  # fmt: skip
    for name, (data, what) in raw.items():
        folder = case(name, None, failing=("bundle",), exit_code=10, what=what)
        (folder / FORM).write_bytes(data + bytes(1024))
    payload = read_sigstore(both[0]).envelope.payload
    twice = payload.replace(b'{"_type"', b'{"predicateType":"x","_type"', 1)
    signed = sign_statement(replace(make_statement((ResourceDescriptor(name="x", digest={"sha256": "0" * 64}),), "urn:x", {}), payload=twice), signer("acme"))  # fmt: skip
    folder = case(
        "duplicate-key_fail",
        None,
        failing=("bundle",),
        exit_code=10,
        what="a key stands twice in what acme signed",
    )
    write_twice(folder / FORM, merge(good, Bundle()), signed.to_json())

    # policies that cannot mean what they say: a usage error, no verdict
    case(
        "one-key-two-operators_fail", good, exit_code=2,
        policy_text=policy(("keys/auditor.pub", "keys/acme.pub")), what="one key under two names",
    )  # fmt: skip
    for name, old, new, what in (
        ("further-twice_fail", LIBRARY, REPOSITORY, "the rule of the expected repository stands twice"),
        ("further-as-name_fail", "[[source.also]]\nrepository = ", "also = ", "a further repository without a table of its own"),
    ):  # fmt: skip
        text = FURTHER_UNSIGNED.replace(old, new).replace(
            f'"{LIBRARY}"\nrefs = ["refs/tags/v*"]', f'["{LIBRARY}"]'
        )
        case(name, good, exit_code=2, policy_text=text, what=what)
    case(
        "minority-unsaid_fail",
        good,
        exit_code=2,
        policy_text=policy(("n = 2", "n = 1")),
        what="1 of 2, not said",
    )
    case(
        "misspelt-key_fail",
        good,
        exit_code=2,
        policy_text=policy(("n = 2", "n = 2\nlevle = 1")),
        what="a misspelt key",
    )


def write_twice(path: Path, made: Bundle, malformed: bytes) -> None:
    """Write a bundle with a statement that our own writer refuses."""
    from provenance.bundle import STATEMENT, lay_out
    from provenance.oci import Manifest, layout_of, write_layout

    annotations = {"dev.sigstore.bundle.content": "dsse-envelope", "dev.sigstore.bundle.predicateType": "x"}
    extra = Manifest(
        artifact_type=STATEMENT, layers=(blob_of(malformed, STATEMENT),), annotations=annotations
    )
    write_layout(path, layout_of([*lay_out(made).manifests, extra]))


if __name__ == "__main__":
    generate()
