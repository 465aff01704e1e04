#!/usr/bin/env python3
"""Keys and tokens that PyJWT has made: good.jwks, and one file for each token, named as those of tokens.py are.

Usage: signed.py DIRECTORY NOW
"""

import base64
import json
import sys

import jwt
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from jwt.algorithms import get_default_algorithms

directory, now = sys.argv[1], int(sys.argv[2])
ALGORITHMS = {"rsa": "RS256", "ec": "ES256", "ed": "EdDSA", "other": "ES256"}
KEYS = {
    "rsa": rsa.generate_private_key(public_exponent=65537, key_size=2048),
    "ec": ec.generate_private_key(ec.SECP256R1()),
    "ed": ed25519.Ed25519PrivateKey.generate(),
    "other": ec.generate_private_key(ec.SECP256R1()),
}


def token(name="ec", algorithm=None, kid=None, drop=(), **claims):
    body = {"iss": "https://id.example", "aud": ["web", "api"], "sub": "ann", "exp": now + 600, **claims}
    for field in drop:
        del body[field]
    return jwt.encode(body, KEYS[name], algorithm=algorithm or ALGORITHMS[name], headers={"kid": kid or name})


def unsigned(kid):
    """Of PyJWT as well: alg is none, and there is no signature."""
    body = {"iss": "https://id.example", "aud": ["web"], "sub": "ann", "exp": now + 600}
    return jwt.encode(body, None, algorithm="none", headers={"kid": kid})


def jwk(name):
    algorithm = get_default_algorithms()[ALGORITHMS[name]]
    return {**algorithm.to_jwk(KEYS[name].public_key(), as_dict=True), "kid": name, "use": "sig"}


# What the public key says is the secret: every client knows it.
secret = base64.urlsafe_b64encode(json.dumps(jwk("rsa")).encode())
tokens = {
    "good-rsa": token("rsa"),
    "good-ec": token("ec"),
    "good-ed": token("ed"),
    "good-one-audience": token("rsa", aud="web"),
    "good-begun": token("ed", nbf=now - 10, iat=now - 10, jti="7", scope="a b"),
    "bad-audience": token("rsa", aud="other"),
    "bad-ended": token("ec", exp=now - 61),
    "bad-no-end": token("ed", drop=["exp"]),
    "bad-not-begun": token("ec", nbf=now + 600),
    "bad-issuer": token("ed", iss="https://other.example"),
    "bad-none": unsigned("ec"),
    "bad-unknown-kid": token("other"),
    "bad-other-key": token("other", kid="ec"),
    "bad-rs512": token("rsa", algorithm="RS512"),
    "bad-hmac-of-key": jwt.encode({"iss": "https://id.example", "aud": "web", "sub": "ann", "exp": now + 600}, secret,
                                  algorithm="HS256", headers={"kid": "rsa"}),
}
for name, text in tokens.items():
    with open(f"{directory}/{name}.jwt", "w") as file:
        file.write(text)
with open(f"{directory}/good.jwks", "w") as file:
    json.dump({"keys": [jwk(name) for name in ("rsa", "ec", "ed")]}, file)
