#!/usr/bin/env python3
"""Writes schedules.txt, mixed.txt, messages.txt, auth.txt and nat.txt: a second implementation of what
crates/ike does, from the RFCs, on hashlib, hmac and pyca/cryptography."""

import hashlib
import hmac
import ipaddress
import pathlib
import struct

from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from cryptography.hazmat.primitives.ciphers.aead import AESGCM, ChaCha20Poly1305

HERE = pathlib.Path(__file__).parent
PRFS = {
    "PRF_HMAC_SHA1": "sha1",
    "PRF_HMAC_SHA2_256": "sha256",
    "PRF_HMAC_SHA2_384": "sha384",
    "PRF_HMAC_SHA2_512": "sha512",
}
INTEGS = {
    "HMAC_SHA1_96": ("sha1", 12),
    "HMAC_SHA2_256_128": ("sha256", 16),
    "HMAC_SHA2_384_192": ("sha384", 24),
    "HMAC_SHA2_512_256": ("sha512", 32),
}


def sample(label, length):
    """Octets that look random and are not."""
    return hashlib.shake_256(label.encode()).digest(length)


def prf(name, key, data):
    return hmac.new(key, data, PRFS[name]).digest()


def prf_plus(name, key, seed, length):
    out, block, counter = b"", b"", 1
    while len(out) < length:
        block = prf(name, key, block + seed + bytes([counter]))
        out += block
        counter += 1
    return out[:length]


def cut(material, *lengths):
    parts = []
    for length in lengths:
        parts.append(material[:length])
        material = material[length:]
    assert not material
    return parts


def integ_key_len(integ):
    return hashlib.new(INTEGS[integ][0]).digest_size if integ else 0


class File:
    def __init__(self, name, about):
        self.path, self.lines = HERE / name, [f"# {about}. Written by make.py.", ""]

    def case(self, **values):
        for name, value in values.items():
            text = value.hex() if isinstance(value, bytes) else str(value)
            self.lines.append(f"{name} = {text}".rstrip())
        self.lines.append("")

    def write(self):
        self.path.write_text("\n".join(self.lines[:-1]) + "\n")


SUITES = [
    # encryption, key octets, salt octets, integrity, prf
    ("AES_GCM_16-256", 32, 4, None, "PRF_HMAC_SHA2_256"),
    ("AES_GCM_16-128", 16, 4, None, "PRF_HMAC_SHA2_512"),
    ("AES_CBC-256", 32, 0, "HMAC_SHA1_96", "PRF_HMAC_SHA1"),
    ("AES_CBC-256", 32, 0, "HMAC_SHA2_256_128", "PRF_HMAC_SHA2_256"),
    ("AES_CBC-192", 24, 0, "HMAC_SHA2_384_192", "PRF_HMAC_SHA2_384"),
    ("AES_CBC-128", 16, 0, "HMAC_SHA2_512_256", "PRF_HMAC_SHA2_512"),
    ("CHACHA20_POLY1305", 32, 4, None, "PRF_HMAC_SHA2_256"),
    ("AES_GCM_16-192", 24, 4, None, "PRF_HMAC_SHA2_384"),
]


def schedules():
    dh = File("schedules.txt", "Key schedules with a shared secret (RFC 7296) and with QKD keys")
    for number, (encr, key, salt, integ, function) in enumerate(SUITES):
        ni, nr = sample(f"ni{number}", 32), sample(f"nr{number}", 40)
        spi_i, spi_r = sample(f"spii{number}", 8), sample(f"spir{number}", 8)
        spi_ue, spi_n3iwf = sample(f"ue{number}", 4), sample(f"n3iwf{number}", 4)
        shared, again = sample(f"shared{number}", 256), sample(f"again{number}", 32)
        ik, pk = integ_key_len(integ), hashlib.new(PRFS[function]).digest_size
        seed = ni + nr + spi_i + spi_r
        skeyseed = prf(function, ni + nr, shared)
        material = prf_plus(function, skeyseed, seed, 3 * pk + 2 * (ik + key + salt))
        sk_d, ai, ar, ei, si, er, sr, pi, pr = cut(material, pk, ik, ik, key, salt, key, salt, pk, pk)
        per = key + salt + ik
        child = prf_plus(function, sk_d, ni + nr, 2 * per)
        pfs = prf_plus(function, sk_d, again + ni + nr, 2 * per)
        dh.case(
            suite_text=f"{encr}{'/' + integ if integ else ''}/{function}",
            ni=ni, nr=nr, spi_i=spi_i, spi_r=spi_r, shared=shared, again=again,
            skeyseed=skeyseed, rekeyed=prf(function, sk_d, again + ni + nr),
            sk_d=sk_d, sk_ai=ai, sk_ar=ar, sk_ei=ei, salt_i=si, sk_er=er, salt_r=sr, sk_pi=pi, sk_pr=pr,
            child=child, child_pfs=pfs,
        )
    for number, (encr, key, salt, integ, function) in enumerate(SUITES):
        ni, nr = sample(f"qni{number}", 32), sample(f"qnr{number}", 32)
        spi_i, spi_r = sample(f"qspii{number}", 8), sample(f"qspir{number}", 8)
        spi_ue, spi_n3iwf = sample(f"que{number}", 4), sample(f"qn3iwf{number}", 4)
        ik, pk = integ_key_len(integ), hashlib.new(PRFS[function]).digest_size
        count = 4 if integ else 2
        keys = [sample(f"key{number}.{index}", 64) for index in range(count + 1)]
        k_n3iwf = sample(f"k_n3iwf{number}", 32)
        derived = prf_plus(function, keys[-1], ni + nr + spi_i + spi_r, 3 * pk)
        sk_d, pi, pr = cut(derived, pk, pk, pk)

        def salted(spi):
            return hmac.new(ni + nr, spi, "sha256").digest()[:4] if salt else b"\0" * 4

        dh.case(
            qkd_text=f"{encr}{'/' + integ if integ else ''}/{function}",
            ni=ni, nr=nr, spi_i=spi_i, spi_r=spi_r, spi_ue=spi_ue, spi_n3iwf=spi_n3iwf,
            keys=b"".join(keys[:-1]), k_auth=keys[-1], k_n3iwf=k_n3iwf,
            sk_d=sk_d, sk_pi=pi, sk_pr=pr,
            up_encr=keys[0][:key], down_encr=keys[1][:key],
            up_integ=keys[2][:ik] if integ else b"", down_integ=keys[3][:ik] if integ else b"",
            salt_i=salted(spi_r), salt_r=salted(spi_i),
            salt_up=salted(spi_n3iwf), salt_down=salted(spi_ue),
            final=prf(function, keys[-1], k_n3iwf),
        )
    dh.write()


def mixed():
    out = File("mixed.txt", "Several key exchanges (RFC 9370), PPKs (RFC 8784, RFC 9867), IntAuth (RFC 9242)")
    for number, (encr, key, salt, integ, function) in enumerate(SUITES):
        ni, nr = sample(f"mni{number}", 32), sample(f"mnr{number}", 36)
        spi_i, spi_r = sample(f"mspii{number}", 8), sample(f"mspir{number}", 8)
        secrets = [sample(f"msk{number}.{index}", length) for index, length in enumerate((32, 32, 256))]
        ppk = sample(f"ppk{number}", 48)
        ik, pk = integ_key_len(integ), hashlib.new(PRFS[function]).digest_size
        seed = ni + nr + spi_i + spi_r
        lengths = (pk, ik, ik, key + salt, key + salt, pk, pk)

        def all_keys(skeyseed):
            return cut(prf_plus(function, skeyseed, seed, sum(lengths)), *lengths)

        rounds, skeyseed = [], prf(function, ni + nr, secrets[0])
        rounds.append(all_keys(skeyseed))
        for secret in secrets[1:]:
            skeyseed = prf(function, rounds[-1][0], secret + ni + nr)
            rounds.append(all_keys(skeyseed))
        sk_d, _, _, _, _, sk_pi, sk_pr = rounds[-1]
        follow_up = secrets[0] + ni + nr + secrets[1] + secrets[2]
        seeded = prf_plus(function, ppk, sk_d, pk)
        with_ppk = all_keys(seeded)
        # Two IKE_INTERMEDIATE exchanges, each way, under the keys of the first two rounds.
        parts, messages = {"i": b"", "r": b""}, {}
        for index in range(2):
            for side, place, flags in (("i", 5, 8), ("r", 6, 32)):
                inner = struct.pack("!BBHHH", 0, 0, 8 + 20 + index, 36 + index, 0) + sample(f"ke{side}{index}", 20 + index)
                header = spi_i + spi_r + bytes([46, 0x20, 43, flags])
                header += struct.pack("!II", 1 + index, 32 + len(inner)) + struct.pack("!BBH", 34, 0, 4 + len(inner))
                parts[side] = prf(function, rounds[index][place], parts[side] + header + inner)
                messages[f"chain_{side}{index}"] = inner
        out.case(
            suite_text=f"{encr}{'/' + integ if integ else ''}/{function}",
            ni=ni, nr=nr, spi_i=spi_i, spi_r=spi_r, secret0=secrets[0], secret1=secrets[1], secret2=secrets[2],
            sk_d=sk_d, sk_pi=sk_pi, sk_pr=sk_pr, sk_ei=rounds[-1][3],
            rekeyed=prf(function, sk_d, follow_up),
            child=prf_plus(function, sk_d, follow_up, 2 * (key + salt + ik)),
            ppk=ppk, confirmation=prf(function, ppk, seed)[:8],
            auth_d=prf_plus(function, ppk, sk_d, pk), auth_pi=prf_plus(function, ppk, sk_pi, pk),
            auth_pr=prf_plus(function, ppk, sk_pr, pk),
            seeded=seeded, ppk_d=with_ppk[0], ppk_ei=with_ppk[3], ppk_pi=with_ppk[5], ppk_pr=with_ppk[6],
            **messages,
            int_auth=parts["i"] + parts["r"] + struct.pack("!I", 3),
        )
    out.write()


def messages():
    out = File("messages.txt", "Protected messages (RFC 7296, section 3.14; RFC 5282; RFC 7383)")
    # Two payloads: Notify INITIAL_CONTACT, then a Delete of the IKE SA.
    content = bytes.fromhex("2a000008" "00004000" "00000008" "01000000")
    for number, (encr, key, salt, integ, _) in enumerate(SUITES):
        for fragment in (None, (1, 3)):
            label = f"message{number}"
            encr_key, salt_octets = sample(label + "e", key), sample(label + "s", 4)
            integ_key = sample(label + "i", integ_key_len(integ)) if integ else b""
            iv = (1).to_bytes(8, "big") if not integ else sample(label + "iv", 16)
            if integ:
                pad = -(len(content) + 1) % 16
                plain = content + bytes(pad) + bytes([pad])
            else:
                plain = content + b"\0"
            icv = INTEGS[integ][1] if integ else 16
            extra = struct.pack("!HH", *fragment) if fragment else b""
            payload = 4 + len(extra) + len(iv) + len(plain) + icv
            header = bytes.fromhex("0102030405060708" "1112131415161718")
            header += bytes([53 if fragment else 46, 0x20, 37, 0x28])
            header += struct.pack("!II", 7, 28 + payload)
            header += struct.pack("!BBH", 41, 0, payload) + extra
            if integ:
                cipher = Cipher(algorithms.AES(encr_key), modes.CBC(iv)).encryptor()
                message = header + iv + cipher.update(plain) + cipher.finalize()
                message += hmac.new(integ_key, message, INTEGS[integ][0]).digest()[:icv]
            else:
                aead = ChaCha20Poly1305 if encr == "CHACHA20_POLY1305" else AESGCM
                message = header + iv + aead(encr_key).encrypt(salt_octets + iv, plain, header)
            out.case(
                encr_text=encr, integ_text=integ or "", fragment_text="1/3" if fragment else "",
                encr_key=encr_key, salt=salt_octets if not integ else bytes(4), integ_key=integ_key,
                iv=iv, content=content, message=message,
            )
    out.write()


def auth():
    out = File("auth.txt", "Shared-key AUTH (RFC 7296, section 2.15)")
    for number, function in enumerate(PRFS):
        message, nonce = sample(f"m{number}", 300), sample(f"n{number}", 32)
        sk_p, secret = sample(f"p{number}", hashlib.new(PRFS[function]).digest_size), sample(f"s{number}", 32)
        id_body = b"\x02\0\0\0" + b"n3iwf.example.net"
        int_auth = b"" if number % 2 else sample(f"i{number}", 68)
        octets = message + nonce + prf(function, sk_p, id_body) + int_auth
        out.case(
            prf_text=function, message=message, peer_nonce=nonce, fqdn_text="n3iwf.example.net", sk_p=sk_p,
            int_auth=int_auth, signed=octets, secret=secret,
            auth=prf(function, prf(function, secret, b"Key Pad for IKEv2"), octets),
        )
    out.write()


def nat():
    out = File("nat.txt", "NAT detection (RFC 7296, section 2.23)")
    for address, port in (("192.0.2.10", 500), ("203.0.113.1", 4500), ("2001:db8::1", 500)):
        spi_i, spi_r = sample("nat" + address, 8), bytes(8)
        data = spi_i + spi_r + ipaddress.ip_address(address).packed + struct.pack("!H", port)
        host = f"[{address}]" if ":" in address else address
        out.case(spi_i=spi_i, spi_r=spi_r, address_text=f"{host}:{port}", hash=hashlib.sha1(data).digest())
    out.write()


schedules()
mixed()
messages()
auth()
nat()
