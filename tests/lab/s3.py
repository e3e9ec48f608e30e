"""A real S3 server of this machine (moto), for s3fs as it is: its signatures, parts and errors."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from moto.s3.models import s3_backends
from moto.server import ThreadedMotoServer

BUCKET = "checkpoints"


@dataclass(frozen=True)
class S3Lab:
    environment: dict[str, str]
    """In which any SDK finds it, with credentials that it takes."""

    @property
    def objects(self) -> dict[str, Any]:
        """Those of the bucket, by key: moto's own, with `value` and `last_modified`."""
        keys = s3_backends["123456789012"]["aws"].buckets[BUCKET].keys
        return {key: keys[key] for key in list(keys)}

    def alter(self, key: str) -> None:
        """Flip a bit of an object, behind the back of whoever wrote it."""
        stored = self.objects[key]
        data = bytearray(stored.value)
        data[-1] ^= 1
        stored.value = bytes(data)


@contextmanager
def s3_lab() -> Iterator[S3Lab]:
    """With one empty bucket."""
    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    try:
        host, port = server.get_host_and_port()
        # The store is the process's, and another module's tests may have left theirs.
        s3_backends["123456789012"]["aws"].reset()
        s3_backends["123456789012"]["aws"].create_bucket(BUCKET, "us-east-1")
        yield S3Lab(
            {
                "AWS_ENDPOINT_URL": f"http://{host}:{port}",
                "AWS_ACCESS_KEY_ID": "test-key-id",
                "AWS_SECRET_ACCESS_KEY": "test-secret-key",
                "AWS_REGION": "us-east-1",
                "AWS_EC2_METADATA_DISABLED": "true",
            }
        )
    finally:
        server.stop()
