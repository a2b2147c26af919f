"""The bars of `docs/engine.svg`: tokens per CPU second of every way to run the model.

`python -m benchmarks.engine --json | python -m benchmarks.chart > docs/engine.svg`
"""

import json
import sys
from collections.abc import Mapping
from html import escape

TITLE = "Tokens per CPU second, many people at once (more is better)"
OURS = ("slots", "paged")
LABELS = {
    "slots": "Switchyard, slots",
    "paged": "Switchyard, paged",
    "transformers' batching": "transformers, continuous batching",
    "static 48": "generate(), batches of 48",
    "static 16": "generate(), batches of 16",
    "static 8": "generate(), batches of 8",
    "collect": "generate(), collect 8 or 50 ms",
    "generate()": "generate(), one by one",
}
WIDTH, LEFT, RIGHT, TOP, ROW, BAR = 800, 280, 70, 56, 34, 20
STYLE = (
    "text{font:14px system-ui,'Segoe UI',sans-serif;fill:#57606a}"
    ".title{font-size:16px;font-weight:600}"
    ".ours{fill:#1f6feb}.other{fill:#8c959f}"
    "@media(prefers-color-scheme:dark){text{fill:#9198a1}.ours{fill:#4493f8}.other{fill:#656c76}}"
)


def draw(figures: Mapping[str, float]) -> str:
    """An SVG that reads well on light and dark pages. `figures` by name; what has no bar is left out."""
    rates = sorted(((figures[name], name) for name in LABELS if name in figures), reverse=True)
    height = TOP + ROW * len(rates) + 8
    scale = (WIDTH - LEFT - RIGHT) / rates[0][0]
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" role="img" aria-labelledby="title">',
        f"<style>{STYLE}</style>",
        f'<text id="title" class="title" x="0" y="22">{TITLE}</text>',
    ]
    for number, (rate, name) in enumerate(rates):
        y, width = TOP + ROW * number, rate * scale
        middle = y + BAR / 2 + 5
        lines += [
            f'<text x="{LEFT - 10}" y="{middle:g}" text-anchor="end">{escape(LABELS[name])}</text>',
            f'<rect class="{"ours" if name in OURS else "other"}" x="{LEFT}" y="{y}" '
            f'width="{width:.1f}" height="{BAR}" rx="3"/>',
            f'<text x="{LEFT + width + 8:.1f}" y="{middle:g}">{rate:.0f}</text>',
        ]
    return "\n".join([*lines, "</svg>", ""])


def main() -> None:
    """Read the JSON of `benchmarks.engine` from standard input; the last line counts."""
    sys.stdout.write(draw(json.loads(sys.stdin.read().splitlines()[-1])))


if __name__ == "__main__":
    main()
