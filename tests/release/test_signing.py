"""A signature says whose release it is, and nothing that is not theirs passes."""

from __future__ import annotations

import base64
import json
import shutil
import stat
import subprocess
import sys
from dataclasses import replace

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, load_pem_public_key
from securesystemslib.dsse import Envelope
from securesystemslib.exceptions import VerificationError
from securesystemslib.signer import SSlibKey

from pipeline.errors import InputError
from pipeline.release import bundle, sealing, signing, standalone
from pipeline.release.verify import Origin, verify
from pipeline.storage.store import canonical_json, digest_file

SIGNATURE = "manifest.json.sig"


@pytest.fixture(scope="session")
def keys(tmp_path_factory):
    folder = tmp_path_factory.mktemp("keys")
    return {name: signing.generate(folder / name) for name in ("ours", "theirs")}


def named(content, version, private):
    """The content under a version that its config names as well, to be signed."""
    release = {**content.manifest["config"]["release"], "version": version}
    manifest = {**content.manifest, "config": {**content.manifest["config"], "release": release}}
    return replace(content, version=version, manifest=manifest, sign=private)


@pytest.fixture(scope="session")
def signed(content, keys, tmp_path_factory):
    return {
        version: bundle.write(named(content, version, keys["ours"][0]), tmp_path_factory.mktemp("signed"))
        for version in ("1.2.0", "1.10.0")
    }


@pytest.fixture
def copy(signed, tmp_path):
    return shutil.copytree(signed["1.10.0"], tmp_path / "copy")


def resum(release):
    """What a careful forger does: bring the list of digests up to date."""
    names = [name for name in standalone.list_files(release) if not name.startswith("report/") and name != "SHA256SUMS"]
    (release / "SHA256SUMS").write_text(standalone.format_sums({name: digest_file(release / name) for name in names}))


def restate(release, **fields):
    """Change the manifest so that everything but a signature fits it."""
    manifest = json.loads((release / "manifest.json").read_bytes()) | fields
    manifest["digest"] = sealing.content_digest(manifest)
    (release / "manifest.json").write_bytes(canonical_json(manifest))


def shipped(release, *arguments):
    command = [sys.executable, "-I", str(release / "verify.py"), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_a_signed_release_passes_for_its_key_and_for_no_other(signed, keys):
    release = signed["1.10.0"]
    assert verify(release).passed
    assert verify(release, origin=Origin(key=keys["ours"][1])).passed
    verdict = verify(release, origin=Origin(key=keys["theirs"][1]))
    assert verdict.problems[0].startswith(f"{SIGNATURE}: by another key")
    assert verdict.backends == ()
    assert shipped(release, "--key", keys["ours"][1]).stdout.endswith(
        "ok: digests, signature, golden cases on onnxruntime-cpu\n"
    )
    assert shipped(release, "--key", keys["theirs"][1]).returncode == 1


def test_the_signature_is_what_dsse_and_ed25519_say_it_is(signed, keys):
    """Checked as a stranger would, from DSSE's protocol."""
    envelope = json.loads((signed["1.10.0"] / SIGNATURE).read_bytes())
    payload, kind = base64.b64decode(envelope["payload"]), envelope["payloadType"]
    pae = b" ".join([b"DSSEv1", b"%d" % len(kind), kind.encode(), b"%d" % len(payload), payload])
    key = load_pem_public_key(keys["ours"][1].read_bytes())
    key.verify(base64.b64decode(envelope["signatures"][0]["sig"]), pae)
    statement = json.loads(payload)
    assert statement["_type"] == "https://in-toto.io/Statement/v1"
    assert statement["subject"] == [
        {"name": "manifest.json", "digest": {"sha256": digest_file(signed["1.10.0"] / "manifest.json")}}
    ]


def test_the_envelope_is_accepted_by_securesystemslib_for_its_key_alone(signed, keys):
    text = (signed["1.10.0"] / SIGNATURE).read_bytes()
    for name, passes in (("ours", True), ("theirs", False)):
        public = load_pem_public_key(keys[name][1].read_bytes())
        key = SSlibKey.from_crypto(public, keyid=standalone.key_id(public.public_bytes_raw()))
        envelope = Envelope.from_dict(json.loads(text))
        if passes:
            assert envelope.verify([key], 1) == {key.keyid: key}
        else:
            with pytest.raises(VerificationError):
                envelope.verify([key], 1)


def test_signing_twice_gives_the_same_bytes(content, keys, signed, tmp_path):
    again = bundle.write(named(content, "1.10.0", keys["ours"][0]), tmp_path)
    assert bundle.file_digests(again) == bundle.file_digests(signed["1.10.0"])


def strip(release, *_):
    (release / SIGNATURE).unlink()


def strip_and_resum(release, *_):
    strip(release)
    resum(release)


def strip_and_deny(release, *_):
    strip(release)
    restate(release, signed_by=None)
    resum(release)


def foreign_signature(release, keys):
    signer = signing.read_signer(keys["theirs"][0])
    (release / SIGNATURE).write_bytes(
        signing.envelope(signer, "tiny", "1.10.0", (release / "manifest.json").read_bytes())
    )
    resum(release)


def foreign_release(release, keys):
    signer = signing.read_signer(keys["theirs"][0])
    restate(release, signed_by=signer.key_id)
    foreign_signature(release, keys)


def foreign_signature_under_our_name(release, keys):
    signer = signing.read_signer(keys["theirs"][0])
    ours = replace(signer, key_id=signing.read_signer(keys["ours"][0]).key_id)
    (release / SIGNATURE).write_bytes(
        signing.envelope(ours, "tiny", "1.10.0", (release / "manifest.json").read_bytes())
    )
    resum(release)


def edited(release, *_):
    restate(release, weights={"file": "tiny.pth", "parameters": 15, "sha256": "00" * 32})
    resum(release)


def two_signatures(release, *_):
    envelope = json.loads((release / SIGNATURE).read_bytes())
    envelope["signatures"] *= 2
    (release / SIGNATURE).write_bytes(canonical_json(envelope))
    resum(release)


def garbage(release, *_):
    (release / SIGNATURE).write_bytes(b"{}")
    resum(release)


FORGERIES = [
    strip, strip_and_resum, strip_and_deny, foreign_signature, foreign_release, foreign_signature_under_our_name,
    edited, two_signatures, garbage,
]  # fmt: skip
WITHOUT_KEY = {strip, strip_and_resum, foreign_signature, edited, two_signatures, garbage}


@pytest.mark.parametrize("forge", FORGERIES, ids=lambda each: each.__name__)
def test_no_forgery_passes(copy, keys, forge):
    forge(copy, keys)
    assert not verify(copy, origin=Origin(key=keys["ours"][1])).passed
    assert shipped(copy, "--key", keys["ours"][1]).returncode == 1
    # Without a key, what contradicts itself is refused all the same.
    if forge in WITHOUT_KEY:
        assert not verify(copy).passed
        assert shipped(copy).returncode == 1


def test_an_unsigned_release_fails_where_a_key_is_asked_for(pristine, keys):
    assert verify(pristine, origin=Origin(key=keys["ours"][1])).problems == (
        f"{SIGNATURE}: missing: nobody signed this release",
    )


def test_an_older_release_is_refused_however_valid_its_signature(signed, keys):
    older = Origin(key=keys["ours"][1], at_least="1.10.0")
    assert verify(signed["1.10.0"], origin=older).passed
    assert verify(signed["1.2.0"], origin=older).problems == ("version 1.2.0 is older than 1.10.0",)
    assert shipped(signed["1.2.0"], "--key", keys["ours"][1], "--at-least", "1.10.0").returncode == 1
    assert shipped(signed["1.10.0"], "--key", keys["ours"][1], "--at-least", "1.10.0").returncode == 0


def test_versions_order_as_semver_says():
    ordered = ["1.0.0-alpha", "1.0.0-alpha.1", "1.0.0-alpha.beta", "1.0.0-beta", "1.0.0-beta.2", "1.0.0-beta.11", "1.0.0-rc.1", "1.0.0", "2.0.0", "2.1.0", "2.1.1", "10.0.0"]  # fmt: skip
    assert sorted(set(ordered), key=standalone.precedence) == ordered
    assert standalone.precedence("1.0.0+a") == standalone.precedence("1.0.0+b")


def test_a_version_without_an_order_is_said_to_have_none(pristine, weighbridge):
    assert "no order" in verify(pristine, origin=Origin(at_least="1.0.0")).problems[0]
    done = weighbridge("verify", pristine, "--at-least", "today")
    assert done.failed_with(2, "--at-least", "today", "1.2.0")
    assert shipped(pristine, "--at-least", "today").returncode == 2


def test_keys_are_made_for_their_owner_alone_and_never_overwritten(tmp_path, weighbridge):
    done = weighbridge("keygen", tmp_path / "mine", "--json")
    made = json.loads(done.out)
    assert stat.S_IMODE((tmp_path / "mine.pem").stat().st_mode) == 0o600
    assert made == {"private": str(tmp_path / "mine.pem"), "public": str(tmp_path / "mine.pub.pem")}
    assert weighbridge("keygen", tmp_path / "mine").failed_with(2, "mine.pem exists")


def test_a_file_that_is_no_key_is_one_clear_error(tmp_path, keys, pristine):
    other = ec.generate_private_key(ec.SECP256R1())
    (tmp_path / "ec.pem").write_bytes(other.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    (tmp_path / "text.pem").write_text("not a key")
    for name in ("ec.pem", "text.pem", "gone.pem"):
        with pytest.raises(InputError, match=rf"{name}.*") as caught:
            signing.read_signer(tmp_path / name)
        assert "keygen" in str(caught.value.hint)
        with pytest.raises(InputError, match="is no public key"):
            verify(pristine, origin=Origin(key=tmp_path / name))
    with pytest.raises(InputError, match="is no public key"):
        verify(pristine, origin=Origin(key=keys["ours"][0]))


def test_what_generate_writes_is_an_ed25519_key(keys):
    signer = signing.read_signer(keys["ours"][0])
    assert isinstance(signer.key, Ed25519PrivateKey)
    assert len(signer.key_id) == 64


def test_a_key_that_cannot_be_read_stops_an_export_before_any_work(tmp_path, weighbridge):
    done = weighbridge("export", "configs/simplenet.yaml", "--out", tmp_path / "out", "--sign", tmp_path / "gone.pem")
    assert done.failed_with(2, "gone.pem", "keygen")
    assert not (tmp_path / "out").exists()


def test_what_was_signed_as_one_kind_is_none_of_another(tmp_path):
    signing.generate(tmp_path / "key")
    signer = signing.read_signer(tmp_path / "key.pem")
    key_id, opened = signing.opener(signing.read_public(tmp_path / "key.pub.pem"), "application/x")
    assert key_id == signer.key_id
    assert opened(signing.seal(signer, "application/x", b"payload")) == b"payload"
    for envelope in (
        signing.seal(signer, "application/y", b"payload"),
        signing.seal(signer, "application/x", b"payload").replace(b"application/x", b"application/z"),
        b"{}",
        b"[",
        b"\xff",
    ):
        with pytest.raises(ValueError, match="sign"):
            opened(envelope)
