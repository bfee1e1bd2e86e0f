"""How much one archive may hold: an archive of a few bytes can be made that would fill any disk."""

from dataclasses import dataclass

MEGABYTE = 1024 * 1024
RATIO_FROM_BYTES = 1024 * MEGABYTE
"""What holds less does no harm, whatever its ratio: an empty mask of a scan is packed to next to nothing."""


@dataclass(frozen=True)
class ArchiveLimits:
    """The most MiB when unpacked, the most files, and the most times its own size; 0 stands for no limit.

    The ratio is asked for from RATIO_FROM_BYTES on.
    """

    megabytes: int
    files: int
    ratio: int

    def excess(self, unpacked: int, files: int, packed: int) -> str | None:
        """Return the setting that an archive of `packed` bytes is over, None if there is none."""
        if self.files and files > self.files:
            return f"MODEL_SERVER_MAX_ARCHIVE_FILES={self.files}"
        if self.megabytes and unpacked > self.megabytes * MEGABYTE:
            return f"MODEL_SERVER_MAX_ARCHIVE_MB={self.megabytes}"
        if self.ratio and unpacked > max(self.ratio * packed, RATIO_FROM_BYTES):
            return f"MODEL_SERVER_MAX_ARCHIVE_RATIO={self.ratio}"
        return None
