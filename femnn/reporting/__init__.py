"""What was learned and how far it may be believed, as one page."""
