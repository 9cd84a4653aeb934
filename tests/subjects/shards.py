"""Losses of a vocabulary in shards that end badly, and one without a group."""

import os
import time

from crossent_conformance.reference import Reference
from crossent_conformance.reference.shards import ShardedReference

subject = ShardedReference()
whole = Reference()


class Sleeping(ShardedReference):
    """One rank does not meet the others, which wait for it."""

    def local(self, part, call):
        if part.group.rank == 1:
            time.sleep(600)
        return super().local(part, call)


class Ending(ShardedReference):
    """The process of one rank ends."""

    def local(self, part, call):
        if part.group.rank == 1:
            os.write(2, b"no more of this\n")
            os._exit(3)
        return super().local(part, call)
