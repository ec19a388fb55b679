"""Writes the trust file that workflows verify releases with, from what the environment says.

    python -m releases.trust_file FOLDER

PUBLIC_KEY holds the public key that releases are signed with (PEM). Where it is empty, releases
are signed by IDENTITY (``*`` stands for anything), which ISSUER vouches for. Neither comes from
what is verified. Makes FOLDER/trust.toml, and FOLDER/release.pub.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

from kiln.core.errors import UsageError
from kiln.core.files import write_atomic
from kiln.signing.keys import canonical_public_pem
from shared import program

KEY_FILE = "release.pub"


def trust_file(public_key: str, identity: str, issuer: str) -> dict[str, bytes]:
    """File name -> content.

    Raises:
        UsageError: nobody is named.
        SigningKeyError: the key is none.
    """
    # A JSON string is a TOML string too.
    if public_key.strip():
        pem = canonical_public_pem(public_key.replace("\\n", "\n").encode())
        text = f'schema = 1\n\n[[signer]]\nname = "release key"\nkey = {json.dumps(KEY_FILE)}\n'
        return {KEY_FILE: pem, "trust.toml": text.encode()}
    if not (identity and issuer):
        raise UsageError(
            "Nobody is named who may have signed.", "Set PUBLIC_KEY, or IDENTITY and ISSUER."
        )
    text = (
        f'schema = 1\n\n[[signer]]\nname = "release workflow"\n'
        f"identity = {json.dumps(identity)}\nissuer = {json.dumps(issuer)}\n"
    )
    return {"trust.toml": text.encode()}


def main() -> int:
    """Write the files; the exit code."""
    folder = Path(sys.argv[1])
    given = (os.environ.get(name, "") for name in ("PUBLIC_KEY", "IDENTITY", "ISSUER"))
    files = trust_file(*given)
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        write_atomic(folder / name, content)
    print(folder / "trust.toml")
    return 0


if __name__ == "__main__":
    program.run_function(main, "trust-file")
