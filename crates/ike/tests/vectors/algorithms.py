#!/usr/bin/env python3
"""Writes algorithms.txt: the AlgorithmIdentifier that OpenSSL writes for each signature algorithm."""

import pathlib
import subprocess
import tempfile

HERE = pathlib.Path(__file__).parent
EC, RSA, ED = ("EC", "ec_paramgen_curve:P-256"), ("RSA", "rsa_keygen_bits:2048"), ("ED25519",)
PSS = ["-sigopt", "rsa_padding_mode:pss", "-sigopt"]
CASES = [(f"Ecdsa(Sha{bits})", EC, [f"-sha{bits}"]) for bits in (256, 384, 512)]
CASES += [(f"RsaPkcs1(Sha{bits})", RSA, [f"-sha{bits}"]) for bits in (256, 384, 512)]
CASES += [
    (f"RsaPss(Sha{bits}, {bits // 8})", RSA, [f"-sha{bits}", *PSS, "rsa_pss_saltlen:digest"])
    for bits in (256, 384, 512)
]
CASES += [("RsaPss(Sha256, 20)", RSA, ["-sha256", *PSS, "rsa_pss_saltlen:20"]), ("Ed25519", ED, [])]


def element(der):
    """Length of a DER element with its header, and of its header."""
    if der[1] < 0x80:
        return 2 + der[1], 2
    count = der[1] & 0x7F
    return 2 + count + int.from_bytes(der[2 : 2 + count], "big"), 2 + count


lines = ["# AlgorithmIdentifiers as OpenSSL writes them. Written by algorithms.py.", ""]
with tempfile.TemporaryDirectory() as place:
    for name, (algorithm, *options), signing in CASES:
        key = f"{place}/key"
        options = [part for option in options for part in ("-pkeyopt", option)]
        subprocess.run(["openssl", "genpkey", "-quiet", "-algorithm", algorithm, *options, "-out", key], check=True)
        command = ["openssl", "req", "-x509", "-new", "-key", key, "-subj", "/CN=x", "-outform", "DER", *signing]
        der = subprocess.run(command, check=True, capture_output=True).stdout
        rest = der[element(der)[1] :]
        rest = rest[element(rest)[0] :]
        lines += [f"scheme_text = {name}", f"identifier = {rest[:element(rest)[0]].hex()}", ""]
(HERE / "algorithms.txt").write_text("\n".join(lines[:-1]) + "\n")
