"""Read iris measurements from CSV files: what training and prediction share."""

import csv
import os
import sys
from pathlib import Path

COLUMNS = ["sepal_length", "sepal_width", "petal_length", "petal_width"]
MODEL_NAME = "decision-tree.joblib"


def folder(variable: str, default: str) -> Path:
    """Return the folder that an environment variable names, or the default one."""
    return Path(os.environ.get(variable) or default)


def read_rows(path: Path, columns: list[str]) -> list[dict[str, str | None]]:
    """Read a CSV file that has at least these columns."""
    try:
        # utf-8-sig: spreadsheets put a byte order mark before the first column's name.
        with path.open(newline="", encoding="utf-8-sig") as file:
            reader = csv.DictReader(file)
            for column in columns:
                if column not in (reader.fieldnames or ()):
                    sys.exit(f"{path.name} has no column {column}.")
            return list(reader)
    except (UnicodeDecodeError, csv.Error):
        sys.exit(f"{path.name} is not a CSV file in UTF-8.")


def read_measurements(path: Path, rows: list[dict[str, str | None]]) -> list[list[float]]:
    """Turn the four measurements of every row into numbers."""
    for row_number, row in enumerate(rows, start=1):
        for column in COLUMNS:
            if not is_length(row[column]):
                sys.exit(f"{path.name}, row {row_number}: {column} is {row[column]!r}, not a length in centimetres.")
    return [[float(row[column] or "") for column in COLUMNS] for row in rows]


def is_length(cell: str | None) -> bool:
    """Tell whether a cell holds a length that a flower can have: NaN and infinity are numbers too, but not lengths."""
    try:
        return 0 < float(cell or "") < 100
    except ValueError:
        return False
