"""Copy between folders and S3: `fill FOLDER` puts its files there, `keep FOLDER [SEED ...]` gets what is in no SEED.

The file `<bucket>/<key>` of a folder is that object.
"""

import hashlib
import sys
from pathlib import Path

import boto3
from boto3.s3.transfer import TransferConfig

IN_ONE_PART = TransferConfig(multipart_threshold=sys.maxsize)
"""So that the ETag of each object is its MD5."""


def main(what: str, *folders: str) -> int:
    if what == "fill":
        return fill(Path(folders[0]))
    return keep(Path(folders[0]), [Path(seed) for seed in folders[1:]])


def fill(folder: Path) -> int:
    s3 = boto3.client("s3")
    for bucket in sorted(path for path in folder.iterdir() if path.is_dir()):
        s3.create_bucket(Bucket=bucket.name)
        for path in sorted(path for path in bucket.rglob("*") if path.is_file()):
            s3.upload_file(str(path), bucket.name, path.relative_to(bucket).as_posix(), Config=IN_ONE_PART)
    return 0


def keep(target: Path, seeds: list[Path]) -> int:
    """Copy what can be copied, and return 1 where an object could not be."""
    s3 = boto3.client("s3")
    failed = False
    for bucket in s3.list_buckets()["Buckets"]:
        for page in s3.get_paginator("list_objects_v2").paginate(Bucket=bucket["Name"]):
            for item in page.get("Contents", []):
                name = f"{bucket['Name']}/{item['Key']}"
                try:
                    if not any(is_same(seed / name, item["ETag"]) for seed in seeds):
                        copy(s3, bucket["Name"], item["Key"], target)
                except OSError as error:  # such as a key that is too long for a name
                    failed = True
                    print(f"s3://{bucket['Name']}/{item['Key']!r} is not copied: {error.strerror}.", file=sys.stderr)
    return int(failed)


def copy(s3, bucket: str, key: str, target: Path) -> None:
    path = target / bucket / key
    # A program chose the key, and it may not choose where on this machine its file goes.
    if not path.resolve().is_relative_to((target / bucket).resolve()) or key.endswith("/"):
        print(f"s3://{bucket}/{key!r} is not copied: its key is not the path of a file.", file=sys.stderr)
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    s3.download_file(bucket, key, str(path))


def is_same(path: Path, etag: str) -> bool:
    if not path.is_file():
        return False
    with path.open("rb") as file:
        return hashlib.file_digest(file, "md5").hexdigest() == etag.strip('"')


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
