"""The mathematics of the loss, in pure array API: nothing here asks which array library or engine it serves."""
