"""The backends: every module here exports the same functions, so a backend is a row in a table.

`rnn_forward`, `rnn_backward`, `clip_grads_` and `decode` take the arguments of the operators in
`csrc/ops/`, in the same order. `reference` is the specification. No backend imports another.
Where `CHECKS_ARGUMENTS` is true, they refuse arguments that do not fit by themselves, so that a
call need not be checked in Python as well (1.4 us of the 8 that a small one took).
`FUSED_READOUT` is the number of elements up to which W_hq is taken by `rnn_logits` and its adjoint,
one call for the recurrence and its readout; where it is 0, a backend needs neither, nor `rounds`.
`train_steps_` have the reference and a backend whose calls take long beside short steps;
`rnn_cross_entropy_grads_` one that gains by adding gradients where they are (5 % of a small step).
"""
