"""The stored energy of a rubber sheet: the sheet, and the training."""
