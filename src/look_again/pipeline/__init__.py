"""Data by the paper's recipe: cold start, distillation, a panel that checks, rewriting, people, and a build."""
