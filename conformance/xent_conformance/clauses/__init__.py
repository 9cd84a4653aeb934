"""The clauses of the contract as tests: a function's name begins with the number of the clause that it checks."""
