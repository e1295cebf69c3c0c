"""Progress that goes into a file: plain lines, now and then."""

import io

from rich.console import Console

from whence.launch import _Lines, progress


def test_lines_come_every_half_minute_and_say_what_is_left():
    now = [0.0]
    console = Console(file=io.StringIO(), width=40)
    report = _Lines(console, lambda: now[0])
    for done in range(0, 101, 10):
        report("retrain", done, 100)
        now[0] += 12.0
    lines = console.file.getvalue().splitlines()
    assert lines == [
        "Retraining: 30 of 100 steps (30%), about 0:01:24 left, 0:00:36 so far",
        "Retraining: 60 of 100 steps (60%), about 0:00:48 left, 0:01:12 so far",
        "Retraining: 90 of 100 steps (90%), about 0:00:12 left, 0:01:48 so far",
    ]


def test_short_steps_say_nothing_and_no_control_codes_are_written():
    console = Console(file=io.StringIO(), width=80)
    with progress(console) as report:
        report("corpus", 5, 0)
        report("index", 9, 9)
    assert console.file.getvalue() == ""


def test_an_unknown_total():
    now = [0.0]
    console = Console(file=io.StringIO(), width=80)
    report = _Lines(console, lambda: now[0])
    report("corpus", 0, 0)
    now[0] = 61.0
    report("corpus", 12345, 0)
    assert console.file.getvalue() == "Reading the corpus: 12,345, 0:01:01 so far\n"
