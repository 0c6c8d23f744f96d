"""Drop repeated lines, keeping the first of each."""


def unique(lines):
    kept = []
    for line in lines:
        if line not in kept:
            kept.append(line)
    return kept
