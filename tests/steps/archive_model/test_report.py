from pathlib import Path

from nlp_pipeline.steps.archive_model.report import MARKER, render_section
from nlp_pipeline.steps.evaluate_model import report

TRIAL = {"rows": 2000, "accuracy": 0.9512, "drop": 0.0015, "agreement": 0.99951}
TRIED = {
    "int8": TRIAL | {"texts_per_second": 812.4, "megabytes": 23.14},
    "fp32": TRIAL | {"texts_per_second": 312.4, "megabytes": 90.92, "drop": 0.0},
}


def test_the_section_tells_what_was_chosen_and_why() -> None:
    section = render_section({"chosen": "int8", "reason": "a <b> & c", "tried": TRIED})
    assert "Number format of the archive: int8" in section
    assert "Measured on 2,000 evaluation rows" in section and "a &lt;b&gt; &amp; c." in section
    assert "<tr><th>int8<td>0.9512<td>+0.15<td>0.9995<td>812<td>23.1\n" in section
    assert "<tr><th>fp32<td>0.9512<td>+0.00<td>0.9995<td>312<td>90.9\n" in section


def test_the_evaluations_report_has_one_place_for_it() -> None:
    template = Path(report.__file__).with_name("report.html.jinja").read_text(encoding="utf-8")
    assert template.count(MARKER) == 1
