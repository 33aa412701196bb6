"""The whole paper as one plan: stages that name what they need, made once, and a report of what came out."""
