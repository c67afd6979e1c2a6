#!/usr/bin/env python3
"""Writes ke.txt: key exchanges, from RFC 5903, RFC 7748 and RFC 8031, and computed here.

The MODP primes come from their definition in RFC 3526 (powers of two and digits of pi), and ML-KEM is
written from the algorithms of FIPS 203; where pyca/cryptography has a method, it has to agree.
"""

import hashlib
import pathlib

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, mlkem, x25519

HERE = pathlib.Path(__file__).parent

def sample(label, length):
    """Octets that look random and are not."""
    return hashlib.shake_256(label.encode()).digest(length)

# --- MODP, RFC 3526 ------------------------------------------------------------------------------

# name, bits, bits of pi, the constant that makes it a safe prime, octets of a private exponent
GROUPS = [
    ("MODP_2048", 2048, 1918, 124476, 40),
    ("MODP_3072", 3072, 2942, 1690314, 56),
    ("MODP_4096", 4096, 3966, 240904, 64),
]

def pi(bits):
    """The integer part of 2^bits * pi, after Machin."""

    def arctan(x):
        term = (1 << (bits + 64)) // x
        total, square, odd, sign = term, x * x, 1, -1
        while term:
            term //= square
            odd += 2
            total += sign * (term // odd)
            sign = -sign
        return total

    return 4 * (4 * arctan(5) - arctan(239)) >> 64

def prime(bits, digits, constant):
    p = 2**bits - 2 ** (bits - 64) - 1 + 2**64 * (pi(digits) + constant)
    assert p.bit_length() == bits and pow(3, p - 1, p) == 1
    assert pow(3, (p - 1) // 2 - 1, (p - 1) // 2) == 1, "a safe prime"
    return p

# --- ML-KEM, FIPS 203 ----------------------------------------------------------------------------

Q = 3329
SETS = {"ML_KEM_512": (2, 3, 10, 4), "ML_KEM_768": (3, 2, 10, 4), "ML_KEM_1024": (4, 2, 11, 5)}

def bit_reverse(number):
    return int(f"{number:07b}"[::-1], 2)

ZETAS = [pow(17, bit_reverse(i), Q) for i in range(128)]
GAMMAS = [pow(17, 2 * bit_reverse(i) + 1, Q) for i in range(128)]

def encode(values, width):
    bits = sum(value << (width * i) for i, value in enumerate(values))
    return bits.to_bytes(32 * width, "little")

def decode(octets, width):
    bits = int.from_bytes(octets, "little")
    return [bits >> (width * i) & ((1 << width) - 1) for i in range(256)]

def compress(values, width):
    return [((value << width) + Q // 2) // Q % (1 << width) for value in values]

def decompress(values, width):
    return [(value * Q + (1 << (width - 1))) >> width for value in values]

def sample_ntt(seed):
    stream, out, place = hashlib.shake_128(seed).digest(3000), [], 0
    while len(out) < 256:
        a, b, c = stream[place : place + 3]
        place += 3
        for value in (a + 256 * (b % 16), b // 16 + 16 * c):
            if value < Q and len(out) < 256:
                out.append(value)
    return out

def sample_cbd(octets, eta):
    bits = int.from_bytes(octets, "little")
    bit = lambda i: bits >> i & 1
    return [
        (sum(bit(2 * i * eta + j) for j in range(eta)) - sum(bit(2 * i * eta + eta + j) for j in range(eta))) % Q
        for i in range(256)
    ]

def ntt(f):
    f, i, length = list(f), 1, 128
    while length >= 2:
        for start in range(0, 256, 2 * length):
            for j in range(start, start + length):
                t = ZETAS[i] * f[j + length] % Q
                f[j + length], f[j] = (f[j] - t) % Q, (f[j] + t) % Q
            i += 1
        length //= 2
    return f

def inverse_ntt(f):
    f, i, length = list(f), 127, 2
    while length <= 128:
        for start in range(0, 256, 2 * length):
            for j in range(start, start + length):
                t = f[j]
                f[j] = (t + f[j + length]) % Q
                f[j + length] = ZETAS[i] * (f[j + length] - t) % Q
            i -= 1
        length *= 2
    return [value * 3303 % Q for value in f]

def multiply(f, g):
    out = []
    for i in range(128):
        a, b, c, d = f[2 * i], f[2 * i + 1], g[2 * i], g[2 * i + 1]
        out += [(a * c + b * d * GAMMAS[i]) % Q, (a * d + b * c) % Q]
    return out

def add(*polynomials):
    return [sum(values) % Q for values in zip(*polynomials)]

def dot(left, right):
    return add(*(multiply(f, g) for f, g in zip(left, right)))

def prf(eta, seed, number):
    return sample_cbd(hashlib.shake_256(seed + bytes([number])).digest(64 * eta), eta)

def matrix(rho, k):
    return [[sample_ntt(rho + bytes([j, i])) for j in range(k)] for i in range(k)]

def mlkem_keys(parameters, seed):
    k, eta, _, _ = parameters
    g = hashlib.sha3_512(seed[:32] + bytes([k])).digest()
    rho, sigma = g[:32], g[32:]
    s = [ntt(prf(eta, sigma, i)) for i in range(k)]
    e = [ntt(prf(eta, sigma, k + i)) for i in range(k)]
    t = [add(dot(row, s), e[i]) for i, row in enumerate(matrix(rho, k))]
    return b"".join(encode(f, 12) for f in t) + rho, s

def mlkem_encapsulate(parameters, ek, m):
    k, eta, du, dv = parameters
    g = hashlib.sha3_512(m + hashlib.sha3_256(ek).digest()).digest()
    shared, seed = g[:32], g[32:]
    t = [decode(ek[384 * i : 384 * (i + 1)], 12) for i in range(k)]
    a = matrix(ek[384 * k :], k)
    y = [ntt(prf(eta, seed, i)) for i in range(k)]
    e1 = [prf(2, seed, k + i) for i in range(k)]
    e2 = prf(2, seed, 2 * k)
    u = [add(inverse_ntt(dot([a[j][i] for j in range(k)], y)), e1[i]) for i in range(k)]
    mu = decompress([bit for bit in decode(m, 1)], 1)
    v = add(inverse_ntt(dot(t, y)), e2, mu)
    return b"".join(encode(compress(f, du), du) for f in u) + encode(compress(v, dv), dv), shared

# --- the file ------------------------------------------------------------------------------------

lines = ["# Key exchanges: RFC 5903, section 8; RFC 7748, section 6.1; RFC 8031, appendix A;", "# and MODP and ML-KEM computed by exchanges.py.", ""]

def case(**values):
    for name, value in values.items():
        text = value.hex() if isinstance(value, bytes) else value
        lines.append(f"{name} = {text}")
    lines.append("")

def octets(text):
    return bytes.fromhex(text.replace(" ", "").replace("\n", ""))

def elliptic(name, curve, i, r, shared):
    length = len(i)
    key_i = ec.derive_private_key(int.from_bytes(i, "big"), curve)
    key_r = ec.derive_private_key(int.from_bytes(r, "big"), curve)
    public = lambda key: key.public_key().public_bytes(
        serialization.Encoding.X962, serialization.PublicFormat.UncompressedPoint
    )[1:]
    assert key_i.exchange(ec.ECDH(), key_r.public_key()) == shared and len(shared) == length
    case(method_text=name, random_i=i, public_i=public(key_i), random_r=r, public_r=public(key_r), shared=shared)

elliptic("ECP_256", ec.SECP256R1(),
    octets("C88F01F5 10D9AC3F 70A292DA A2316DE5 44E9AAB8 AFE84049 C62A9C57 862D1433"),
    octets("C6EF9C5D 78AE012A 011164AC B397CE20 88685D8F 06BF9BE0 B283AB46 476BEE53"),
    octets("D6840F6B 42F6EDAF D13116E0 E1256520 2FEF8E9E CE7DCE03 812464D0 4B9442DE"))
elliptic("ECP_384", ec.SECP384R1(),
    octets("099F3C70 34D4A2C6 99884D73 A375A67F 7624EF7C 6B3C0F16 0647B674 14DCE655 E35B5380 41E649EE 3FAEF896 783AB194"),
    octets("41CB0779 B4BDB85D 47846725 FBEC3C94 30FAB46C C8DC5060 855CC9BD A0AA2942 E0308312 916B8ED2 960E4BD5 5A7448FC"),
    octets("11187331 C279962D 93D60424 3FD592CB 9D0A926F 422E4718 7521287E 7156C5C4 D6031355 69B9E9D0 9CF5D4A2 70F59746"))
elliptic("ECP_521", ec.SECP521R1(),
    octets("0037ADE9 319A89F4 DABDB3EF 411AACCC A5123C61 ACAB57B5 393DCE47 608172A0 95AA85A3 0FE1C295 2C6771D9 37BA9777 F5957B26 39BAB072 462F68C2 7A57382D 4A52"),
    octets("0145BA99 A847AF43 793FDD0E 872E7CDF A16BE30F DC780F97 BCCC3F07 8380201E 9C677D60 0B343757 A3BDBF2A 3163E4C2 F869CCA7 458AA4A4 EFFC311F 5CB15168 5EB9"),
    octets("01144C7D 79AE6956 BC8EDB8E 7C787C45 21CB086F A64407F9 7894E5E6 B2D79B04 D1427E73 CA4BAA24 0A347868 59810C06 B3C715A3 A8CC3151 F2BEE417 996D19F3 DDEA"))

# RFC 8031, appendix A.
i = octets("751fb4308655b476b6789b7325f9ea8cddd16a58533ff6d9e60009464a5f9d94")
r = octets("0a54645253290d60ddadd0e030bacd9e5501efdc220755a1e978f1b839a05688")
shared = octets("c74950607a12327f3204d94b6825bfb068b7f8319a9e3708ed3d43ce8130c950")
key_i, key_r = (x25519.X25519PrivateKey.from_private_bytes(key) for key in (i, r))
assert key_i.exchange(key_r.public_key()) == shared
case(method_text="CURVE_25519", random_i=i, public_i=key_i.public_key().public_bytes_raw(),
    random_r=r, public_r=key_r.public_key().public_bytes_raw(), shared=shared)
# RFC 7748, section 6.1: Bob's private key and Alice's public one.
case(method_text="CURVE_25519",
    random_i=octets("5dab087e624a8a4b79e17f8b83800ee66f3bb1292618b6fd1c2f8b27ff88e0eb"),
    public_i=octets("de9edb7d7b7dc1b4d35b61c2ece435373f8343c85b78674dadfc7e146f882b4f"),
    public_r=octets("8520f0098930a754748b7ddcb43ef75a0dbf3a0d26381af4eba4a98eaa9b4e6a"),
    shared=octets("4a5d9d5ba4ce2de1728e3bf480350f25e07e21c947d19e3376f09b3c1e161742"))

for name, bits, digits, constant, length in GROUPS:
    p = prime(bits, digits, constant)
    for number in range(2):
        i, r = sample(f"{name} i{number}", length), sample(f"{name} r{number}", length)
        x, y = int.from_bytes(i, "big"), int.from_bytes(r, "big")
        value = lambda number: number.to_bytes(bits // 8, "big")
        case(method_text=name, random_i=i, public_i=value(pow(2, x, p)), random_r=r, public_r=value(pow(2, y, p)),
            shared=value(pow(2, x * y, p)), prime=value(p))

for name, parameters in SETS.items():
    for number in range(2):
        seed, m = sample(f"{name} seed{number}", 64), sample(f"{name} m{number}", 32)
        ek, s = mlkem_keys(parameters, seed)
        ciphertext, shared = mlkem_encapsulate(parameters, ek, m)
        other = {"ML_KEM_768": mlkem.MLKEM768PrivateKey, "ML_KEM_1024": mlkem.MLKEM1024PrivateKey}.get(name)
        # A ciphertext that was not made with the key: J(z | c) instead of a failure.
        wrong = bytes([ciphertext[0] ^ 1]) + ciphertext[1:]
        rejected = hashlib.shake_256(seed[32:] + wrong).digest(32)
        if other:
            key = other.from_seed_bytes(seed)
            assert key.public_key().public_bytes_raw() == ek
            assert key.decapsulate(ciphertext) == shared and key.decapsulate(wrong) == rejected
        case(method_text=name, random_i=seed, public_i=ek, random_r=m, public_r=ciphertext, shared=shared,
            wrong=wrong, rejected=rejected)

(HERE / "ke.txt").write_text("\n".join(lines[:-1]) + "\n")
