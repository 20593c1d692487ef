from __future__ import annotations

import httpx

from offramp.resources.credential import Credentials, digest

SIGNED = "AWS4-HMAC-SHA256 Credential=AKIA{}/20261201/us-east-1/bedrock/aws4_request, SignedHeaders=host, Signature={}"


def of(**headers):
    return digest(httpx.Headers({name.replace("_", "-"): value for name, value in headers.items()}).raw)


def test_a_key_has_one_digest_wherever_it_is():
    assert of(authorization="Bearer a") == of(Authorization="Bearer a") != of(authorization="Bearer b")
    assert of(x_api_key="a") == of(api_key="a") == of(x_goog_api_key="a")
    assert of(content_type="json") == ""


def test_a_signature_is_not_a_key():
    one, same, other = (of(authorization=SIGNED.format(*key)) for key in (("1", "x"), ("1", "y"), ("2", "x")))
    assert one == same != other


def test_the_only_key_has_no_name():
    known = Credentials()
    one, two = ([(b"X-Api-Key", key)] for key in (b"a", b"b"))
    assert [known.name(one), known.name(one)] == ["", ""]
    assert [known.name(two), known.name(one)] == [digest(two), digest(one)]
