"""Where large values are kept: what the setting may say, and what each place says when something is wrong."""

from __future__ import annotations

import errno
import os
import sys
from pathlib import Path

import msgspec
import pytest

from offramp.core.reference import Reference, reference_in, reference_to
from offramp.errors import MissingExtra, ObjectLost, ObjectsUnavailable, SettingsError
from offramp.stores.blobs.address import parse_objects
from offramp.stores.blobs.blobs import PlacedBlobs
from offramp.stores.blobs.folder import Folder
from offramp.stores.blobs.places import open_blobs
from tests import s3

RUN = "run_00000000000000000000000001"
needs_s3 = pytest.mark.skipif(s3.missing() is not None, reason=str(s3.missing()))


def test_a_reference_is_no_json_and_comes_back():
    made = reference_to(RUN, b'"x"')
    assert reference_in(made.encoded()) == made
    assert not [text for text in (b"null", b'"@"', b"[1]", b"{}", b"-1", b" 1") if reference_in(text)]
    assert reference_in(None) is None
    assert made == Reference(f"{RUN}/{made.sha256}", 3, made.sha256)


@pytest.mark.parametrize(
    "key", ["", "run_1", "/etc/passwd", "../x", "run_1/../../x", "run_1/x/y", "run_1/.part-x", "a\n/b"]
)
def test_a_reference_leads_nowhere_else(key):
    with pytest.raises(ValueError, match="is not the key of an object"):
        reference_in(b'@{"key":%b,"size":1,"sha256":""}' % msgspec.json.encode(key))


@pytest.mark.parametrize(
    ("text", "path"),
    [
        ("objects", "objects"),
        ("/var/lib/objects", "/var/lib/objects"),
        ("file:/srv/objects", "/srv/objects"),
        ("file:" + "//" + "/srv/my%20objects", "/srv/my objects"),
        ("C:\\objects", "C:\\objects"),
        ("./a:b", "./a:b"),
    ],
)
def test_a_folder(text, path):
    assert parse_objects(text, {}) == Path(path)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("s3://bucket", ("S3", "bucket", "", "", "", False, False, "s3://bucket")),
        ("s3://bucket/a/b/", ("S3", "bucket", "a/b", "", "", False, False, "s3://bucket/a/b")),
        (
            "s3://bucket/a?region=eu-north-1&endpoint=https://s3.example.com",
            ("S3", "bucket", "a", "https://s3.example.com", "eu-north-1", False, False, "s3://bucket/a"),
        ),
        (
            "s3://bucket?endpoint=http://127.0.0.1:9000",
            ("S3", "bucket", "", "http://127.0.0.1:9000", "", True, True, "s3://bucket"),
        ),
        (
            "s3://bucket?endpoint=http://minio:9000&allow_http=true",
            ("S3", "bucket", "", "http://minio:9000", "", True, False, "s3://bucket"),
        ),
        ("gs://bucket/a", ("GCS", "bucket", "a", "", "", False, False, "gs://bucket/a")),
        ("az://container/a", ("Azure", "container", "a", "", "", False, False, "az://container/a")),
    ],
)
def test_a_bucket(text, expected):
    assert tuple(parse_objects(text, {})) == expected


def test_an_endpoint_of_the_providers_own_variables_counts():
    near = {"AWS_ENDPOINT_URL": "http://localhost:9000"}
    assert parse_objects("s3://bucket", near)[4:7] == ("", True, True)
    with pytest.raises(SettingsError, match="the endpoint minio is reached without TLS"):
        parse_objects("s3://bucket", {"AWS_ENDPOINT_URL": "http://minio:9000"})


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("s4://bucket", "expected a folder, s3://bucket/prefix"),
        ("https://bucket.s3.amazonaws.com", "expected a folder, s3://bucket/prefix"),
        ("s3://", "name the bucket"),
        ("s3://bucket?regoin=eu", "did you mean 'region'?"),
        ("gs://bucket?endpoint=https://x", "no option 'endpoint'"),
        ("s3://AKIA:hush@bucket", "credentials come from the provider's own variables"),
        ("s3://bucket?endpoint=http://minio:9000", "is reached without TLS"),
        ("s3://bucket?endpoint=https://a:hush@minio", "without a secret"),
        ("s3://bucket?endpoint=minio:9000", "the endpoint must be http://HOST:PORT"),
    ],
)
def test_what_names_no_place_is_said_without_its_secrets(text, says):
    with pytest.raises(SettingsError) as raised:
        parse_objects(text, {})
    assert says in str(raised.value)
    assert "hush" not in str(raised.value)


def test_a_bucket_needs_its_extra_and_a_folder_does_not(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "obstore", None)
    monkeypatch.delitem(sys.modules, "offramp.stores.blobs.remote", raising=False)
    with pytest.raises(MissingExtra, match=r"s3://bucket needs obstore: pip install .*Offramp's extra 'objects'"):
        open_blobs("s3://bucket")
    open_blobs(str(tmp_path)).close()
    assert open_blobs("") is None


@pytest.fixture
def folder(tmp_path):
    blobs = PlacedBlobs(Folder(tmp_path / "objects"))
    yield blobs
    blobs.close()


async def test_a_full_disk_is_said_and_leaves_no_half_file(folder, tmp_path, monkeypatch):
    kept = await folder.put(RUN, b"kept")

    def full(_handle):
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(os, "fsync", full)
        with pytest.raises(ObjectsUnavailable, match="No space left on device; free some room"):
            await folder.put(RUN, b"more")
    names = [path.name for path in (tmp_path / "objects" / RUN).iterdir()]
    assert names == [kept.sha256]


async def test_what_a_process_left_half_written_goes_with_its_run(folder, tmp_path):
    await folder.put(RUN, b"kept")
    (tmp_path / "objects" / RUN / ".part-x").write_bytes(b"hal")
    await folder.delete([RUN])
    assert list((tmp_path / "objects").iterdir()) == []


async def test_objects_are_for_their_owner_alone(folder, tmp_path):
    kept = await folder.put(RUN, b"kept")
    for path in (tmp_path / "objects", tmp_path / "objects" / RUN, tmp_path / "objects" / kept.key):
        assert path.stat().st_mode & 0o077 == 0, path


async def test_a_folder_that_is_not_there_is_away_and_nothing_in_it_is_lost(folder, tmp_path):
    kept = await folder.put(RUN, b"kept")
    (tmp_path / "objects").rename(tmp_path / "unmounted")
    with pytest.raises(ObjectsUnavailable, match="No such file"):
        await folder.get(kept)
    (tmp_path / "unmounted").rename(tmp_path / "objects")
    assert await folder.get(kept) == b"kept"


async def test_after_its_end_a_process_asks_for_nothing(folder):
    kept = await folder.put(RUN, b"kept")
    folder.close()
    with pytest.raises(ObjectsUnavailable, match="this process is stopping"):
        await folder.get(kept)


@pytest.fixture
def bucket(tmp_path):
    server = s3.server()
    opened = []

    def opens(name="offramp-tests"):
        opened.append(open_blobs(server.url(f"stores/{tmp_path.name}", name)))
        return opened[-1]

    yield opens
    for blobs in opened:
        blobs.close()


@needs_s3
async def test_wrong_credentials_are_said_without_them(bucket, monkeypatch):
    kept = await bucket().put(RUN, b"kept")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "not-the-secret")
    blobs = bucket()
    for work in (blobs.put(RUN, b"more"), blobs.get(kept), blobs.delete([RUN])):
        with pytest.raises(ObjectsUnavailable) as raised:
            await work
        told = str(raised.value)
        assert "access is denied (it answers 403 Forbidden, SignatureDoesNotMatch)" in told, told
        assert not [secret for secret in ("not-the-secret", s3.KEY) if secret in told], told
    assert "AWS_SECRET_ACCESS_KEY" in told


@needs_s3
async def test_a_bucket_that_is_not_there_is_away_and_nothing_in_it_is_lost(bucket):
    kept = await bucket().put(RUN, b"kept")
    blobs = bucket("offramp-nowhere")
    missing = r"the bucket does not exist \(it answers 404 Not Found, NoSuchBucket\)"
    with pytest.raises(ObjectsUnavailable, match=missing):
        await blobs.get(kept)


@needs_s3
async def test_runs_that_end_together_are_removed_in_few_requests(bucket, monkeypatch):
    from offramp.stores.blobs import remote

    monkeypatch.setattr(remote, "LIST_ROWS", 8)
    blobs, asked = bucket(), []
    runs = [f"run_{number:026}" for number in range(24)]
    for number, run_id in enumerate(runs):
        for which in range(number % 3):
            await blobs.put(run_id, b"%d" % which)
    listing = remote.obstore.list
    monkeypatch.setattr(remote.obstore, "list", lambda *args, **named: asked.append(1) or listing(*args, **named))
    await blobs.delete(runs)
    assert len(asked) <= 4, "24 runs with 24 objects, eight to an answer"
    for run_id in runs:
        with pytest.raises(ObjectLost):
            await blobs.get(reference_to(run_id, b"1"))
    asked.clear()
    await blobs.delete(runs)
    assert len(asked) == 1, "runs without objects cost as many requests as there are answers"
