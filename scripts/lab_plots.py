"""Draws fidelity against cost of named methods, a picture for each set-up, from the lab results in docs/lab/named.

python scripts/lab_plots.py          write docs/lab/named/SETUP.svg
"""

from lab_docs import NAMED, read_results

from whence.report.plots import spec, svg


def main() -> None:
    """Draw and say where."""
    for name, result in read_results(NAMED).items():
        content = spec(result, "cost")
        assert content is not None, f"{name} has no method with a value and a cost"
        place = NAMED / f"{name}.svg"
        place.write_text(svg(content, f"{name}-clip"), encoding="utf-8")
        print(place)


if __name__ == "__main__":
    main()
