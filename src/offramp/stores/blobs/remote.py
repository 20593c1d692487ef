"""Objects in S3, GCS or Azure, through obstore; credentials come from the provider's own variables and files.

A server's answer may contain keys and signatures, so errors show only its code.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator, Sequence
from datetime import timedelta
from typing import Any

import obstore
from obstore.exceptions import BaseError, PermissionDeniedError, UnauthenticatedError
from obstore.store import AzureStore, GCSStore, S3Store

from offramp.errors import ObjectsUnavailable, SettingsError
from offramp.stores.blobs.address import Bucket
from offramp.stores.blobs.blobs import Missing

CONNECT_S = 5.0
REQUEST_S = 30.0
"""The timeout of one request with its body; objects above `PUT_PART_BYTES` are written in parts of that size."""
RETRIES = 3
RETRY_S = 15.0
"""A failed request is not sent again after this time: callers wait longer where that makes sense."""
PUT_PART_BYTES = 16 << 20
PUT_PARTS_AT_ONCE = 4
LIST_ROWS = 1000
"""Keys in one answer to a listing, as in S3."""

_CODE = re.compile(r"<Code>([A-Za-z0-9._-]{1,80})</Code>")
_STATUS = re.compile(r"status code: (\d{3}(?: [A-Za-z ]{1,40})?)")
_FIX = {
    "S3": "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or the role of this machine",
    "GCS": "GOOGLE_APPLICATION_CREDENTIALS or GOOGLE_SERVICE_ACCOUNT, or the role of this machine",
    "Azure": "AZURE_STORAGE_ACCOUNT_NAME and AZURE_STORAGE_ACCOUNT_KEY, or the role of this machine",
}


class Remote:
    """See `Place`.

    Args:
        bucket: the parsed setting.
    """

    def __init__(self, bucket: Bucket) -> None:
        self.where = bucket.where
        self._bucket = bucket
        self.store = _open(bucket)

    def write(self, key: str, data: bytes) -> None:
        """Write with one request or a multipart upload: whole, or not at all."""
        with self._trouble("written"):
            obstore.put(self.store, key, data, chunk_size=PUT_PART_BYTES, max_concurrency=PUT_PARTS_AT_ONCE)

    def read(self, key: str, start: int, length: int) -> bytes:
        """Read a range: a short request each, however slowly the reader takes the whole."""
        with self._trouble("read", Missing):
            try:
                return bytes(obstore.get_range(self.store, key, start=start, length=length))
            except BaseError as error:
                if _status(error).startswith("416"):  # RFC 9110, 15.5.17: the range begins past the end
                    return b""
                raise

    def clear(self, run_ids: Sequence[str]) -> None:
        """List from one run to the next: runs that end together are mostly in one answer, as ids begin with time."""
        with self._trouble("removed"):
            wanted, after = sorted(run_ids), ""
            while wanted:
                # Start before the run's own name: servers with folders differ in what follows a folder's name.
                after = max(after, wanted[0][:-1])
                page = next(iter(obstore.list(self.store, offset=after, chunk_size=LIST_ROWS)), [])
                runs = set(wanted)
                gone = [row["path"] for row in page if row["path"].partition("/")[0] in runs]
                if gone:
                    obstore.delete(self.store, gone)
                if len(page) < LIST_ROWS:
                    return
                after = page[-1]["path"]
                wanted = [run_id for run_id in wanted if run_id + "0" > after]

    @contextlib.contextmanager
    def _trouble(self, what: str, missing: type[Exception] | None = None) -> Iterator[None]:
        """Errors as callers know them, without quotations from the server."""
        try:
            yield
        except (BaseError, OSError, ValueError) as error:
            code = _CODE.search(str(error))
            reply = ", ".join(part for part in (_status(error), code[1] if code else "") if part)
            bucket_is_there = code is None or code[1] not in {"NoSuchBucket", "ContainerNotFound"}
            if isinstance(error, FileNotFoundError) and missing is not None and bucket_is_there:
                raise missing from None
            raise ObjectsUnavailable(
                f"objects in {self.where} cannot be {what}: {self._because(error, reply, there=bucket_is_there)}"
            ) from None

    def _because(self, error: Exception, reply: str, *, there: bool) -> str:
        answer = f" (it answers {reply})" if reply else ""
        if isinstance(error, (PermissionDeniedError, UnauthenticatedError)) or reply.startswith(("401", "403")):
            return f"access is denied{answer}; check {_FIX[self._bucket.provider]}"
        if isinstance(error, FileNotFoundError) or not there:
            return f"the bucket does not exist{answer}; create it, or correct --objects"
        if reply:
            return f"it answers {reply}"
        return "no answer; check the network, the endpoint and the region"


def _status(error: Exception) -> str:
    found = _STATUS.search(str(error))
    return found[1].strip() if found else ""


def _open(bucket: Bucket) -> Any:
    client: dict[str, Any] = {
        "timeout": timedelta(seconds=REQUEST_S),
        "connect_timeout": timedelta(seconds=CONNECT_S),
    }
    if bucket.plain_http:
        client["allow_http"] = True
    retries: Any = {
        "max_retries": RETRIES,
        "retry_timeout": timedelta(seconds=RETRY_S),
        "backoff": {
            "init_backoff": timedelta(seconds=0.1),
            "max_backoff": timedelta(seconds=2),
            "base": 2,
        },
    }
    options: dict[str, Any] = {"prefix": bucket.prefix or None, "client_options": client, "retry_config": retries}
    kind: Any = {"S3": S3Store, "GCS": GCSStore, "Azure": AzureStore}[bucket.provider]
    if bucket.endpoint:
        options["endpoint"] = bucket.endpoint
    if bucket.region:
        options["region"] = bucket.region
    try:
        return kind(bucket.name, **options)
    except (BaseError, ValueError) as error:
        first_line = str(error).partition("\n")[0][:200]
        raise SettingsError(f"objects {bucket.where}: {first_line}; check {_FIX[bucket.provider]}") from None
