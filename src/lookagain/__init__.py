"""LookAgain: vision-language models that look at the image again while they reason."""
