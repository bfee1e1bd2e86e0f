"""The files of an image that programs and libraries know by name, renamed so that they find none or ours.

Only what has a name in it can be opened: the dynamic linker its cache, its preload file and its usual folders, the C
library what is in /etc, locales and time zones, OpenSSL its configuration. A name of another length would move all that
is behind it in the file, so each becomes one of the same length: below /longshore, which hides an image's whole, where
nothing has that name unless it is in OURS.
"""

import re
from pathlib import Path

FOLDER = b"/longshore/"
ETC = FOLDER + b"etc/"

IMAGES_OWN = {
    b"/etc/hosts": "Docker writes it for each container",
    b"/etc/resolv.conf": "Docker writes it for each container",
    b"/etc/passwd": "ALGORITHM_USER is one of the image's, and HOME is that user's",
    b"/etc/group": "so are the groups of that user",
}
"""All that is read of the image or of its container, apart from the algorithm, and why. /dev, /proc and /sys are the
kernel's, and the folders for tasks, temporary files and SageMaker's /opt/ml are what the settings say."""

OURS = {
    b"/etc/nsswitch.conf": ETC + b"nss",
    b"/usr/lib/ssl/cert.pem": ETC + b"ca.pem",
}
"""The names that lead to files of ours."""

KERNELS = {b"/lib/": b"/sys/", b"/usr/lib/": b"/sys/dev/"}
"""Folders of libraries whose names are too short for ours. Sysfs has none, and nobody can put one there; it is searched
only for a library that is not in ours, and there is no such library."""

NAME = re.compile(rb"(?<=\0)/(?:etc|lib|lib64|usr|var)/[^\0]*(?=\0)")
NAME_IN_CODE = re.compile(rb"/var/run/nscd/so")
"""The beginning of the name of nscd's socket, which compilers move in pieces."""


def forget_image(path: Path) -> None:
    """Rename, in a program or library, the files of an image that it knows by name."""
    known = content = path.read_bytes()
    for pattern in (NAME, NAME_IN_CODE):
        content = pattern.sub(lambda found: b":".join(map(renamed, found[0].split(b":"))), content)
    assert len(content) == len(known), f"{path} would not work: something in it has moved"
    path.write_bytes(content)


def renamed(name: bytes) -> bytes:
    """Return a name of the same length that is not the image's, unless it is one of those that are meant to be."""
    if name in IMAGES_OWN or not name:  # a list of paths may end with a colon
        return name
    if found := OURS.get(name) or KERNELS.get(name):
        return found
    for folder in (ETC, FOLDER):
        if len(name) > len(folder):
            return folder + name[len(folder) :]
    return b"\0" + name[1:]  # the empty name, which no file has
