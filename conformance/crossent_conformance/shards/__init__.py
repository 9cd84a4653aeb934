"""A vocabulary in shards: an implementation asked in several processes, each with classes of its own (P1 to P4).

`partition` says which classes are whose, `team` starts the processes and asks them, `rank` is what runs in each of
them, `groups` how they reach each other, `asking` what a test has of all this.
"""

from crossent_conformance.shards.asking import Asked, Shards
from crossent_conformance.shards.partition import Partition, partitions
from crossent_conformance.shards.team import Answer, Teams

__all__ = ["Answer", "Asked", "Partition", "Shards", "Teams", "partitions"]
