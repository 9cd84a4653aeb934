"""The scoreboard: every peer that is installed, and `crossent` beside them, through the same clauses, as a page.

    python -m crossent_conformance.scoreboard                      `make scoreboard`
    python -m crossent_conformance.scoreboard --results DIR        keeps the results of each as JSON
    python -m crossent_conformance.scoreboard --page --results DIR makes the page of results that are there

One run for each peer, on the backend where it lives, in fresh processes: some have to be imported first. What is not
installed, or could not be run, is named on the page. `page` is made of results alone, and asks nobody.
"""
