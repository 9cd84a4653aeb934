"""The results as JUnit XML, which CI services read: one suite an implementation and backend, one test a case."""

from __future__ import annotations

from xml.etree import ElementTree

from crossent_conformance.escaped import escaped
from crossent_conformance.results import NOT, Results


def document(results: Results) -> bytes:
    """The XML file."""
    root = ElementTree.Element("testsuites", name="crossent conform", time=f"{results.seconds:.1f}")
    for subject in results.subjects:
        for backend in subject.backends:
            cases = [case for case in subject.cases if case.backend == backend]
            suite = ElementTree.SubElement(
                root,
                "testsuite",
                name=escaped(f"{subject.name} on {backend}"),
                tests=str(len(cases)),
                failures=str(sum(case.counts for case in cases)),
                errors="0",
                skipped=str(sum(case.outcome == NOT or bool(case.known) for case in cases)),
                time=f"{sum(case.seconds for case in cases):.3f}",
                timestamp=results.created,
            )
            for case in cases:
                element = ElementTree.SubElement(
                    suite,
                    "testcase",
                    classname=f"{case.clause}.{case.backend}.{case.dtype}",
                    name=escaped(case.id.partition("::")[2]),
                    time=f"{case.seconds:.3f}",
                )
                if case.counts:
                    says = case.failure.says if case.failure is not None else ""
                    failure = ElementTree.SubElement(element, "failure", message=escaped(says or case.message[:300]))
                    failure.set("type", case.kind or "")
                    last = f"\nThe last call: {case.last_call}" if case.last_call else ""
                    failure.text = escaped(case.message + last)
                elif case.outcome == NOT:
                    ElementTree.SubElement(element, "skipped", message=escaped(f"does not apply: {case.message}"))
                elif case.known:
                    message = escaped(f"fails, and may: {case.known}: {case.message[:300]}")
                    ElementTree.SubElement(element, "skipped", message=message)
        if subject.begins:
            number = str(len(subject.begins))
            suite = ElementTree.SubElement(
                root, "testsuite", name=escaped(f"{subject.name}: known failures that hold"),
                tests=number, failures=number, errors="0", skipped="0",
            )  # fmt: skip
            for entry in subject.begins:
                element = ElementTree.SubElement(suite, "testcase", classname="known", name=escaped(entry.where))
                message = escaped(f"begins to hold: {entry.reason}")
                ElementTree.SubElement(element, "failure", message=message, type="begins to hold")
    ElementTree.indent(root)
    xml: bytes = ElementTree.tostring(root, encoding="utf-8", xml_declaration=True)
    return xml + b"\n"
