"""A curve in the terminal."""

from collections.abc import Sequence


def draw_curve(
    values: Sequence[float], *, marks: dict[int, str], width: int = 70, height: int = 10
) -> list[str]:
    """Lines of text with the values as a curve, left to right, and under it a mark below each
    index of `marks` (a single character each)."""
    low, high = min(values), max(values)
    span = (high - low) or 1.0
    columns = min(width, len(values))
    cells = [[" "] * columns for _ in range(height)]
    for column in range(columns):
        start = column * len(values) // columns
        end = max(start + 1, (column + 1) * len(values) // columns)
        mean = sum(values[start:end]) / (end - start)
        row = round((high - mean) / span * (height - 1))
        cells[row][column] = "•"
    lines = []
    for row, line in enumerate(cells):
        label = high if row == 0 else low if row == height - 1 else None
        lines.append(f"{'' if label is None else f'{label:.2f}':>6} ┤" + "".join(line).rstrip())
    below = [" "] * columns
    for index, mark in marks.items():
        below[min(columns - 1, index * columns // len(values))] = mark
    lines.append(" " * 7 + "└" + "─" * columns)
    lines.append(" " * 8 + "".join(below).rstrip())
    return lines
