"""What the server takes for a cron line: `cron.Parse` of github.com/robfig/cron 1.2.

The first field is the second. A line of five fields is taken, too: it lacks the day of the week, *not* the second, so
that `0 2 * * *` means the second minute of every hour.
"""

import re

FIELDS = [("second", 0, 59), ("minute", 0, 59), ("hour", 0, 23), ("day of month", 1, 31), ("month", 1, 12),
          ("day of week", 0, 6)]  # fmt: skip
MONTHS = ["jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec"]
DAYS = ["sun", "mon", "tue", "wed", "thu", "fri", "sat"]
NAMES = {
    "month": {name: at for at, name in enumerate(MONTHS, 1)},
    "day of week": {name: at for at, name in enumerate(DAYS)},
}
DESCRIPTORS = {"@yearly", "@annually", "@monthly", "@weekly", "@daily", "@midnight", "@hourly"}
DURATION = r"@every ([0-9]+(\.[0-9]+)?(ns|us|ms|s|m|h))+"


def problem(line: str) -> str:
    """Returns what is wrong with a cron line; nothing if it is fine."""
    if not line:
        return "Empty spec string"
    if line.startswith("@"):
        return "" if line in DESCRIPTORS or re.fullmatch(DURATION, line) else f"Unrecognized descriptor: {line}"
    fields = line.split()
    if not 5 <= len(fields) <= 6:
        return f"Expected 5 to 6 fields, found {len(fields)}: {line}"
    for text, (name, least, most) in zip(fields, FIELDS, strict=False):
        for part in filter(None, text.split(",")):
            wrong = _problem_of_part(part, NAMES.get(name, {}), least, most)
            if wrong:
                return wrong
    return ""


def _problem_of_part(part: str, names: dict[str, int], least: int, most: int) -> str:
    """Returns what is wrong with `a`, `a-b`, `*`, `?`, or one of these followed by `/step`."""
    bounds, *steps = part.split("/")
    ends = bounds.split("-")
    texts = [str(least), str(most)] if ends[0] in ("*", "?") else [str(names.get(end.lower(), end)) for end in ends]
    for text in [*texts, *steps]:
        if not text.isdecimal():
            return f'Failed to parse int from {text}: strconv.Atoi: parsing "{text}": invalid syntax'
    if len(steps) > 1:
        return f"Too many slashes: {part}"
    if len(ends) > 2:
        return f"Too many hyphens: {part}"
    first, last = int(texts[0]), int(texts[-1])
    if first < least:
        return f"Beginning of range ({first}) below minimum ({least}): {part}"
    if last > most:
        return f"End of range ({last}) above maximum ({most}): {part}"
    if first > last:
        return f"Beginning of range ({first}) beyond end of range ({last}): {part}"
    return f"Step of range should be a positive number: {part}" if steps and not int(steps[0]) else ""
