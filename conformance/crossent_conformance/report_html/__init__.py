"""Reports as HTML pages, each a single file.

    page(results)            the results of `crossent conform`, from their JSON form
    document(title, body)    the frame of a page, for other reports

A page stands alone: no link leads out of it, and nothing that is to be read needs a script. Whatever comes from the
results is escaped, by `text` or what is made of it in `words`. No status is told by colour alone.
"""

from crossent_conformance.report_html.frame import document
from crossent_conformance.report_html.report import page
from crossent_conformance.report_html.words import count, text

__all__ = ["count", "document", "page", "text"]
