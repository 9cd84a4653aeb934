"""The mathematics of the loss, in pure array API: no array library and no engine is named here."""
