"""The conformance suite: the contract of docs/specification.md, asked of any cross-entropy on every backend.

    crossent conform package.module:function --backend numpy torch       the product: a matrix, reports, an exit code
    pytest conformance --backend numpy --subject file.py:function    the same cases under pytest

The rooms: `implementation`, `adapter`, `subject` (what may stand under test, how it is asked and found), `backends` and
`places` (array libraries, and the matrix backend x dtype x mode), `oracle` and `units` (60-digit values, errors in the
contract's units), `clauses` (the tests), `worker`, `process` and `run` (which run them, and outlive what they do),
`results` and its reports: `table`, `page`, `figure`, `junit`. A test knows an implementation only through its subject,
an array library only through its place; its fixtures are told in `clauses`.

Beside them: `shards` (a vocabulary in several processes), `parity` (backends compared with each other), `vectors` (the
contract as files, for any language), `reference` (a clean implementation, to test the suite with), `peers` (other
people's) and their `scoreboard`. Of a room that is a folder, other rooms know what its `__init__` exports.
"""

from crossent_conformance.implementation import Adapter, DoesNotApply, Sharded

__all__ = ["Adapter", "DoesNotApply", "Sharded"]
