"""The stages of dvc.yaml: the trainer's commands with the parameters of params.yaml, and files at fixed places.

DVC compares what a stage reads and writes at paths that never change; the trainer names folders after their content.
Everything lies in PIPELINE, which is the trainer's data folder here.
"""
