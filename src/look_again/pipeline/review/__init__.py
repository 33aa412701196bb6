"""People look: rows under review, on a page here or in Label Studio."""
