"""`crossent parity`: the same inputs to the same implementation on several backends, and what an earlier run had.

`answers` asks the `cases`, and what comes back is data from then on: `compare`, `verdict`, `shown` and `report` know no
array library, and it is the same to them whether answers were given now or lie in a `file`. Others need the `command`
alone.
"""
