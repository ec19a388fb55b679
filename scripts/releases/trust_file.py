"""Write the trust file with which workflows verify releases, from environment variables.

    python -m releases.trust_file FOLDER

PUBLIC_KEY holds the public key that releases are signed with (PEM). Where it is empty, releases
are signed by IDENTITY (``*`` stands for anything), certified by ISSUER. Neither comes from the
release to verify. Makes FOLDER/trust.toml, and FOLDER/release.pub.
"""

from __future__ import annotations

import argparse
import json
import os
from pathlib import Path

from kiln.core.errors import UsageError
from kiln.core.files import write_atomic
from kiln.signing.keys import canonical_public_pem
from shared import program

KEY_FILE = "release.pub"


def trust_file(public_key: str, identity: str, issuer: str) -> dict[str, bytes]:
    """File name -> content.

    Raises:
        UsageError: no signer is named.
        SigningKeyError: the key is not valid.
    """
    # A JSON string is a TOML string too.
    if public_key.strip():
        pem = canonical_public_pem(public_key.replace("\\n", "\n").encode())
        text = f'schema = 1\n\n[[signer]]\nname = "release key"\nkey = {json.dumps(KEY_FILE)}\n'
        return {KEY_FILE: pem, "trust.toml": text.encode()}
    if not (identity and issuer):
        raise UsageError("No signer is named.", "Set PUBLIC_KEY, or IDENTITY and ISSUER.")
    text = (
        f'schema = 1\n\n[[signer]]\nname = "release workflow"\n'
        f"identity = {json.dumps(identity)}\nissuer = {json.dumps(issuer)}\n"
    )
    return {"trust.toml": text.encode()}


def main() -> int:
    """Write the files; the exit code."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    folder: Path = parser.parse_args().folder
    given = (os.environ.get(name, "") for name in ("PUBLIC_KEY", "IDENTITY", "ISSUER"))
    files = trust_file(*given)
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        write_atomic(folder / name, content)
    print(folder / "trust.toml")
    return 0


if __name__ == "__main__":
    program.run_function(main, "trust-file")
