"""The table of a run in Markdown: a row a figure, a column a subject; medians, spread, ratios, refusals in words."""

import os
import platform

from data_set import Refused
from figures import all_figures


def machine():
    model = platform.machine()
    with open("/proc/cpuinfo") as file:
        for line in file:
            if line.startswith("model name"):
                model = line.split(":", 1)[1].strip()
                break
    return f"{model}, {os.cpu_count()} cores, {platform.system()} {platform.release().split('-')[0]}"


def number(value, digits):
    return f"{value:,.{digits}f}"


def spread(value, digits):
    middle, low, high = (number(part, digits) for part in value)
    return middle if low == high else f"{middle} ({low}–{high})"


def cell(record, figure, subject, baseline):
    try:
        value = record.value(subject, figure.key)
    except Refused:
        return "refused"
    if value is None:
        return "–"
    text = spread(value, figure.digits)
    if figure.ratio and baseline and subject != baseline:
        ratio = record.ratio(subject, figure.key, baseline)
        if ratio:
            text += f"; **{ratio[0]:.2f} ×**"
    return text


def refusals(record, subjects, figures):
    seen = []
    for subject in subjects:
        for figure in figures:
            reason = record.reasons.get((subject, figure.key))
            line = f"- {subject}: {reason}"
            if reason and line not in seen:
                seen.append(line)
    return seen


def markdown(record, subjects, header, options, baseline):
    figures = all_figures(options.targets)
    words = {
        "k": options.k,
        "deleted": round(options.delete_share * 100),
        "updated": number(options.update_rows, 0),
    }
    lines = [f"{key}: {value}  " for key, value in header.items()]
    lines += ["", "| figure | " + " | ".join(subjects) + " |", "|---" * (len(subjects) + 1) + "|"]
    for figure in figures:
        cells = [cell(record, figure, subject, baseline) for subject in subjects]
        if any(text != "–" for text in cells):
            lines.append(f"| {figure.label.format(**words)} | " + " | ".join(cells) + " |")
    if baseline:
        lines += ["", f"Median of the runs (lowest–highest); × is the median of each run's ratio to {baseline}."]
    refused = refusals(record, subjects, figures)
    if refused:
        lines += ["", "Refused, because a time beside a wrong result is no result:", *refused]
    return "\n".join(lines) + "\n"


def replace_section(path, name, text):
    """Puts the report between the markers of a document, so that its figures come from a run and nowhere else."""
    with open(path) as file:
        document = file.read()
    opening, closing = f"<!-- bench {name} -->\n", "<!-- /bench -->"
    before, found, rest = document.partition(opening)
    _, ended, after = rest.partition(closing)
    if not (found and ended):
        raise SystemExit(f"{path}: no section {opening.strip()} ... {closing}")
    with open(path, "w") as file:
        file.write(before + opening + text + closing + after)
