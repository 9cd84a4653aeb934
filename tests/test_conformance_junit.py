"""JUnit XML, and the annotations of the step for GitHub Actions: both carry what is wrong in one line."""

import json
import re
import subprocess
import sys
import textwrap
from pathlib import Path
from xml.etree import ElementTree

from tests import sample_results as sample

from crossent_conformance import junit
from crossent_conformance.results import Results

ACTION = Path(__file__).parents[1] / ".github" / "actions" / "conform" / "action.yml"


def test_junit_says_what_is_wrong():
    results = Results("crossent conform", "2026-11-24T01:02:03+00:00", seed=0, thorough=False, subjects=[sample.bad()])
    failures = {
        case.get("name"): case.find("failure").get("message")
        for case in ElementTree.fromstring(junit.document(results)).iter("testcase")
        if case.find("failure") is not None
    }
    assert failures["test_V1_confident_targets[torch-float32-eager]"] == sample.V1_FAILURE.says
    assert failures["test_V1_second"] == ""  # nothing is known of it


def test_the_step_annotates_each_fault(tmp_path):
    path = tmp_path / "conform.json"
    path.write_text(json.dumps(sample.results(sample.bad)), encoding="utf-8")
    (script,) = re.findall(r"<<'END'\n(.*?)\n +END\n", ACTION.read_text(encoding="utf-8"), re.DOTALL)
    command = [sys.executable, "-c", textwrap.dedent(script), str(path)]
    printed = subprocess.run(command, capture_output=True, check=True, encoding="utf-8").stdout
    lines = printed.splitlines()
    faults = sample.bad().faults()
    assert len(lines) == len(faults)
    for line, fault in zip(lines, faults, strict=True):
        kind = "error" if fault.failure.severity == "wrong" else "warning"
        assert line.startswith(f"::{kind} title=crossent conform::package.<script>")
        assert line.endswith(f", {fault.clause}: {fault.failure.says or fault.failure.kind}")
    assert "\x1b" not in printed
