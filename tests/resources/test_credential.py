from __future__ import annotations

import subprocess
import sys

import httpx

from offramp.limits.naming import keyed
from offramp.resources.credential import digest

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


def test_what_is_new_for_each_request_is_no_key():
    assert of(authorization='Digest username="u", nonce="1", response="2"') == ""
    assert of(authorization="Basic dTpw") != of(authorization="Basic dTpx") != ""


def test_all_processes_of_a_data_directory_name_a_key_alike(tmp_path):
    say = (
        f"from pathlib import Path; from offramp.limits.naming import keyed; print(keyed(Path({str(tmp_path)!r}), 'd'))"
    )
    names = {subprocess.check_output([sys.executable, "-c", say], text=True).strip() for _ in range(2)}
    assert names == {keyed(tmp_path, "d")}
    assert keyed(tmp_path, "d") != keyed(tmp_path, "e")
    assert [each.name for each in tmp_path.iterdir()] == ["limits.key"]
    assert (tmp_path / "limits.key").stat().st_mode & 0o077 == 0


def test_two_data_directories_name_a_key_differently(tmp_path):
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
    assert keyed(tmp_path / "one", "d") != keyed(tmp_path / "two", "d")
