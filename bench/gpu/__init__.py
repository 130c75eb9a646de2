"""The GPU suite: stages, each in a process of its own, that prove, measure and report.

`runner` starts the stages of `plan` one after another and ends those that hang; `worker` is such a
process; `stage` is what a stage is given; the rest are the stages and what they share.
"""
