#!/usr/bin/env python3
"""Keys and tokens that Python's cryptography has made: jwks.json, and one file for each token.

Usage: tokens.py DIRECTORY NOW
"""

import base64
import hashlib
import hmac
import json
import sys

from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, padding, rsa
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature

directory, now = sys.argv[1], int(sys.argv[2])


def b64(data):
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def number(value, length=None):
    return b64(value.to_bytes(length or (value.bit_length() + 7) // 8, "big"))


KEYS = {
    "rsa": rsa.generate_private_key(public_exponent=65537, key_size=2048),
    "ec": ec.generate_private_key(ec.SECP256R1()),
    "ed": ed25519.Ed25519PrivateKey.generate(),
    "other": ec.generate_private_key(ec.SECP256R1()),
}
ALGORITHMS = {"rsa": "RS256", "ec": "ES256", "ed": "EdDSA", "other": "ES256"}


def jwk(name, **more):
    key = KEYS[name].public_key()
    if name == "rsa":
        numbers = key.public_numbers()
        public = {"kty": "RSA", "n": number(numbers.n), "e": number(numbers.e)}
    elif name == "ed":
        raw = key.public_bytes(serialization.Encoding.Raw, serialization.PublicFormat.Raw)
        public = {"kty": "OKP", "crv": "Ed25519", "x": b64(raw)}
    else:
        numbers = key.public_numbers()
        public = {"kty": "EC", "crv": "P-256", "x": number(numbers.x, 32), "y": number(numbers.y, 32)}
    return {"kid": name, **public, **more}


def sign(name, message):
    key = KEYS[name]
    if name == "rsa":
        return key.sign(message, padding.PKCS1v15(), hashes.SHA256())
    if name == "ed":
        return key.sign(message)
    r, s = decode_dss_signature(key.sign(message, ec.ECDSA(hashes.SHA256())))
    return r.to_bytes(32, "big") + s.to_bytes(32, "big")


def token(name="ec", header=None, claims=None, drop=(), raw_header=None, raw_claims=None):
    head = {"alg": ALGORITHMS[name], "kid": name, "typ": "JWT", **(header or {})}
    body = {"iss": "https://id.example", "aud": ["web", "api"], "sub": "ann", "exp": now + 600, **(claims or {})}
    for field in drop:
        head.pop(field, None)
        body.pop(field, None)
    text = b64(raw_header or json.dumps(head).encode()) + "." + b64(raw_claims or json.dumps(body).encode())
    return text + "." + b64(sign(name, text.encode()))


def hmac_token(secret):
    text = b64(json.dumps({"alg": "HS256", "kid": "rsa"}).encode()) + "."
    text += b64(json.dumps({"iss": "https://id.example", "aud": "web", "sub": "eve", "exp": now + 600}).encode())
    return text + "." + b64(hmac.new(secret, text.encode(), hashlib.sha256).digest())


pem = KEYS["rsa"].public_key().public_bytes(
    serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
)
good = token()
head, body, signature = good.split(".")
der = KEYS["ec"].sign(f"{head}.{body}".encode(), ec.ECDSA(hashes.SHA256()))

tokens = {
    # These hold.
    "good-rsa": token("rsa"),
    "good-ec": good,
    "good-ed": token("ed"),
    "good-no-kid": token("ed", drop=["kid"]),
    "good-no-typ": token(drop=["typ"]),
    "good-access": token(header={"typ": "application/at+JWT"}),
    "good-one-audience": token(claims={"aud": "web"}),
    "good-just-ended": token(claims={"exp": now - 59}),
    "good-nearly-begun": token(claims={"nbf": now + 59, "iat": now}),
    "good-fraction": token(claims={"exp": now + 0.5}),
    "good-unicode": token(claims={"sub": "ännchen \U0001f600"}),
    # These do not.
    "bad-none": token(header={"alg": "none"}),
    "bad-none-unsigned": b64(b'{"alg":"none"}') + "." + body + ".",
    "bad-unsigned": head + "." + body + ".",
    "bad-hmac-of-pem": hmac_token(pem),
    "bad-hmac-of-key": hmac_token(jwk("rsa")["n"].encode()),
    "bad-other-key": token("other", header={"kid": "ec"}),
    "bad-unknown-kid": token("other"),
    "bad-kid-of-another-kind": token("ec", header={"kid": "rsa"}),
    "bad-algorithm-of-another-kind": token("ec", header={"alg": "RS256"}),
    "bad-rs512": token("rsa", header={"alg": "RS512"}),
    "bad-lowercase-algorithm": token(header={"alg": "es256"}),
    "bad-no-algorithm": token(drop=["alg"]),
    "bad-kid-is-a-number": token(header={"kid": 1}),
    "bad-crit": token(header={"crit": ["b64"], "b64": False}),
    "bad-empty-crit": token(header={"crit": []}),
    "bad-type": token(header={"typ": "logout+jwt"}),
    "bad-ended": token(claims={"exp": now - 61}),
    "bad-no-end": token(drop=["exp"]),
    "bad-end-is-text": token(claims={"exp": str(now + 600)}),
    "bad-not-begun": token(claims={"nbf": now + 61}),
    "bad-begin-is-text": token(claims={"nbf": str(now)}),
    "bad-issuer": token(claims={"iss": "https://id.example/"}),
    "bad-no-issuer": token(drop=["iss"]),
    "bad-issuer-list": token(claims={"iss": ["https://id.example"]}),
    "bad-audience": token(claims={"aud": ["webb", "we"]}),
    "bad-no-audience": token(drop=["aud"]),
    "bad-audience-number": token(claims={"aud": ["web", 1]}),
    "bad-no-subject": token(drop=["sub"]),
    "bad-empty-subject": token(claims={"sub": ""}),
    "bad-subject-line": token(claims={"sub": "ann\nroot"}),
    "bad-twice": token(raw_claims=f'{{"iss":"https://id.example","aud":"web","sub":"ann","exp":{now + 600},"sub":"eve"}}'.encode()),
    "bad-twice-escaped": token(raw_claims=f'{{"iss":"https://id.example","aud":"web","sub":"ann","exp":{now + 600},"s\\u0075b":"eve"}}'.encode()),
    "bad-alg-twice": token(raw_header=b'{"alg":"ES256","kid":"ec","alg":"none"}'),
    "bad-trailing": token(raw_claims=f'{{"iss":"https://id.example","aud":"web","sub":"ann","exp":{now + 600}}}{{}}'.encode()),
    "bad-claims-list": token(raw_claims=b"[]"),
    "bad-claims-utf8": token(raw_claims=b'{"sub":"\xff"}'),
    "bad-claims-surrogate": token(raw_claims=b'{"sub":"\\ud800"}'),
    "bad-claims-deep": token(raw_claims=b'{"a":' + b"[" * 100 + b"]" * 100 + b"}"),
    "bad-claims-infinite": token(raw_claims=b'{"exp":1e999}'),
    "bad-der-signature": f"{head}.{body}.{b64(der)}",
    "bad-zero-signature": f"{head}.{body}.{b64(bytes(64))}",
    "bad-short-signature": f"{head}.{body}.{signature[:-4]}",
    "bad-padded": f"{head}.{body}.{signature}==",
    "bad-padded-claims": f"{head}.{body}=.{signature}",
    "bad-plain-alphabet": f"{head}.{body}.+/{signature[2:]}",
    "bad-space": f"{head}.{body}.{signature} ",
    "bad-four-parts": f"{good}.{signature}",
    "bad-two-parts": f"{head}.{body}",
    "bad-empty": "",
    "bad-long": token(claims={"x": "y" * 9000}),
}
for name, text in tokens.items():
    with open(f"{directory}/{name}.jwt", "w") as file:
        file.write(text)


def write(name, keys):
    with open(f"{directory}/{name}.jwks", "w") as file:
        file.write(keys if isinstance(keys, str) else json.dumps({"keys": keys}))


unused = [jwk("other", kid="enc", use="enc"), {"kty": "EC", "crv": "P-384", "x": "", "y": ""}, {"kty": "future"}]
unused += [jwk("rsa", kid="ps", alg="PS256"), jwk("other", kid="ops", key_ops=["sign"])]
write("good", [jwk("rsa", use="sig", alg="RS256"), jwk("ec", key_ops=["verify"]), jwk("ed", alg="EdDSA")] + unused)
write("bad-kid-twice", [jwk("rsa", kid="a"), jwk("ec", kid="a")])
write("bad-none", unused)
write("bad-empty", [])
write("bad-many", [jwk("ec", kid=str(index)) for index in range(65)])
write("bad-secret", [jwk("ec"), jwk("rsa", d="AQAB")])
write("bad-symmetric", [jwk("ec"), {"kty": "oct", "k": "AAAA"}])
write("bad-point", [jwk("ec", y=jwk("ec")["x"])])
write("bad-small", [{"kty": "RSA", "n": number((1 << 1023) + 1), "e": "AQAB"}])
write("bad-exponent", [jwk("rsa", e="AQ")])
write("bad-even-exponent", [jwk("rsa", e="Ag")])
write("bad-leading-zero", [jwk("rsa", e="AAEAAQ")])
write("bad-padding", [jwk("rsa", e="AQAB==")])
write("bad-ed", [jwk("ed", x="AAAA")])
write("bad-kid-number", [jwk("ec", kid=1)])
write("bad-no-kty", [{"kid": "a"}])
write("bad-json", '{"keys": [], "keys": []}')
write("bad-list", "[]")
write("bad-large", [jwk("ec", x5c="y" * (256 << 10))])
