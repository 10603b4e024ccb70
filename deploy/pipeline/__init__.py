"""The stages of dvc.yaml: the trainer's commands with the parameters of params.yaml, and files at fixed paths.

DVC compares a stage's inputs and outputs at fixed paths, while the trainer names folders after their content. All files
are in PIPELINE, which is the trainer's data folder here.
"""
