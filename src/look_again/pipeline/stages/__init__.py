"""The stages of the data engine: cold start, distillation, panel, rewriting."""
