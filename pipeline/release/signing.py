"""Keys and signatures: Ed25519 over a DSSE envelope that holds an in-toto statement about a release's manifest.

The manifest holds the digest of every file outside `report/`, so its signature is the release's. Signing is
deterministic: the same key and content give the same bytes.
"""

from __future__ import annotations

import base64
import hashlib
import json
import os
from dataclasses import dataclass
from importlib.util import find_spec
from typing import TYPE_CHECKING

from pipeline.errors import InputError, UnavailableError
from pipeline.release import standalone
from pipeline.storage.store import canonical_json, disk_errors, make_directory

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

_RELEASE_PREDICATE = "https://in-toto.io/attestation/release/v0.1"


@dataclass(frozen=True, slots=True)
class Signer:
    """A private key, read, and the name of its public half."""

    key: Ed25519PrivateKey
    key_id: str


def generate(stem: Path) -> tuple[Path, Path]:
    """Write a new private key to `<stem>.pem`, for its owner's eyes only, and its public half to `<stem>.pub.pem`.

    Raises InputError if either exists, UnavailableError without the package cryptography.
    """
    _require_cryptography()
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    private, public = stem.with_name(f"{stem.name}.pem"), stem.with_name(f"{stem.name}.pub.pem")
    if existing := [str(path) for path in (private, public) if path.exists()]:
        raise InputError(f"{existing[0]} exists, and a key is never overwritten", hint="choose another name")
    key = Ed25519PrivateKey.generate()
    secret = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    with disk_errors(private):
        make_directory(private.parent)
        with os.fdopen(os.open(private, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
            file.write(secret)
        public.write_bytes(
            key.public_key().public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
        )
    return private, public


def read_signer(path: Path) -> Signer:
    """Return the private key of a PEM file.

    Raises InputError if it holds no unencrypted Ed25519 key, UnavailableError without the package cryptography.
    """
    _require_cryptography()
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
    from cryptography.hazmat.primitives.serialization import load_pem_private_key

    try:
        key = load_pem_private_key(path.read_bytes(), password=None)
    except (OSError, ValueError, TypeError, UnsupportedAlgorithm) as error:
        reason = error.strerror if isinstance(error, OSError) else str(error).splitlines()[0]
        raise InputError(
            f"{path} is no private key to sign with: {reason}", hint="make one: weighbridge keygen NAME"
        ) from error
    if not isinstance(key, Ed25519PrivateKey):
        raise InputError(
            f"{path} holds another kind of key, and releases are signed with Ed25519",
            hint="make one: weighbridge keygen NAME",
        )
    return Signer(key, standalone.key_id(key.public_key().public_bytes_raw()))


def envelope(signer: Signer, name: str, version: str, manifest: bytes) -> bytes:
    """Return the signature of a manifest: a DSSE envelope as canonical JSON."""
    statement = {
        "_type": "https://in-toto.io/Statement/v1",
        "subject": [{"name": standalone.MANIFEST, "digest": {"sha256": hashlib.sha256(manifest).hexdigest()}}],
        "predicateType": _RELEASE_PREDICATE,
        "predicate": {"purl": f"pkg:generic/{name}@{version}", "releaseId": version},
    }
    payload = canonical_json(statement)
    signature = signer.key.sign(standalone.signed_bytes(payload))
    return canonical_json(
        {
            "payload": base64.b64encode(payload).decode(),
            "payloadType": standalone.PAYLOAD_TYPE,
            "signatures": [{"keyid": signer.key_id, "sig": base64.b64encode(signature).decode()}],
        }
    )


def seal(signer: Signer, kind: str, payload: bytes) -> bytes:
    """Return a payload of some kind (a media type) signed: a DSSE envelope as canonical JSON. Of one kind it is none of another."""
    return canonical_json(
        {
            "payload": base64.b64encode(payload).decode(),
            "payloadType": kind,
            "signatures": [
                {
                    "keyid": signer.key_id,
                    "sig": base64.b64encode(signer.key.sign(_signed_bytes(kind, payload))).decode(),
                }
            ],
        }
    )


def opener(key: Ed25519PublicKey, kind: str) -> tuple[str, Callable[[bytes], bytes]]:
    """Return a key's id, and what returns the payload of an envelope that it signed; that raises ValueError, saying why, for any other."""
    from cryptography.exceptions import InvalidSignature

    key_id = standalone.key_id(key.public_bytes_raw())

    def opened(envelope: bytes) -> bytes:
        try:
            found = json.loads(envelope)
            (entry,) = found["signatures"]
            named, payload = (found["payloadType"], entry["keyid"]), base64.b64decode(found["payload"], validate=True)
            signature = base64.b64decode(entry["sig"], validate=True)
        except (ValueError, KeyError, TypeError, RecursionError):
            raise ValueError("it is not signed") from None
        if named != (kind, key_id):
            raise ValueError("it is signed by another key, or as something else")
        try:
            key.verify(signature, _signed_bytes(kind, payload))
        except InvalidSignature:
            raise ValueError("its signature is wrong") from None
        return payload

    return key_id, opened


def read_public(path: Path) -> Ed25519PublicKey:
    """Return the public key of a PEM file.

    Raises InputError if it holds no Ed25519 key, UnavailableError without the package cryptography.
    """
    _require_cryptography()
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
    from cryptography.hazmat.primitives.serialization import load_pem_public_key

    try:
        key = load_pem_public_key(path.read_bytes())
        if not isinstance(key, Ed25519PublicKey):
            raise TypeError("another kind of key than Ed25519")
    except (OSError, ValueError, TypeError, UnsupportedAlgorithm) as error:
        reason = error.strerror if isinstance(error, OSError) else str(error).splitlines()[0]
        raise InputError(
            f"{path} is no public key: {reason}", hint="give the .pub.pem that `weighbridge keygen` wrote"
        ) from error
    return key


def _signed_bytes(kind: str, payload: bytes) -> bytes:
    """Return DSSE's pre-authentication encoding of a payload."""
    return b"DSSEv1 %d %s %d %s" % (len(kind), kind.encode(), len(payload), payload)


def check(release: Path, public_key: Path) -> list[str]:
    """Return why a release is not signed by the owner of a public key.

    Raises InputError for a file that is no such key, UnavailableError without the package cryptography.
    """
    _require_cryptography()
    try:
        return standalone.check_signature(release, public_key.read_bytes())
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else str(error).splitlines()[0]
        raise InputError(
            f"{public_key} is no public key: {reason}", hint="give the .pub.pem that `weighbridge keygen` wrote"
        ) from error


def _require_cryptography() -> None:
    if find_spec("cryptography") is None:
        raise UnavailableError("signatures need the package cryptography", hint="install weighbridge[sign]")
