"""The composition root: a recipe says what is wanted, and `run_training` puts the parts together to do it.

recipe.yaml ── settings ──> Recipe ── running ──> data → tokenizer → store → model → objective → loop → scores ──> report
"""
