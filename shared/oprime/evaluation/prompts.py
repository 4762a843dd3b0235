"""What stands around a problem, as in the paper's training and evaluation (arXiv 2502.01456): the system turn is the short prompt of
`oprime.tasks.actions`, and each question ends with how its answer is to be given."""

MATH_SUFFIX = "\n\nPresent the answer in LaTex format: \\boxed{Your answer}"
CODE_SUFFIX = "\n\nWrite Python code to solve the problem. Present the code in \n```python\nYour code\n```\nat the end."
