"""One module per benchmark: loader, prompt and rule together."""
