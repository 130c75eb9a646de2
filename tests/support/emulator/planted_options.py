"""Bugs to be planted into what the recurrence's kernels do for lengths, resets and leaky cells."""

from __future__ import annotations

from support.emulator.planted import Patch
from support.emulator.recurrence import cluster, single_block

ONE_BLOCK, CLUSTER = single_block(64, 4, rows=2), cluster(128, 2, 2)
_OPTIONS, _STEPS = "options.cuh", "single_block_steps.cuh"
_TURN = "now_start_ = next_start_, next_start_ = start_of(p_, s + 32 + lane_);"

# By the kernel in which they are looked for.
BUGS: dict[str, tuple[object, Patch]] = {
    "a row goes on after its length": (
        ONE_BLOCK,
        (_OPTIONS, "return time_of(p_, s) < of_row(r, length_);", "return true;"),
    ),
    "a block goes on after its longest sequence": (
        single_block(64, 4),
        (_STEPS, "if constexpr (kOptions) p.T = length_of(p, place.row0);", ""),
    ),
    "a cluster goes on after its longest sequence": (
        cluster(128, 4, 1),
        ("cluster.cu", "if constexpr (kOptions) p.T = length_of(p, row0);", ""),
    ),
    "a row holds what the step before has read": (
        ONE_BLOCK,
        (_STEPS, "held = h_before(u)[", "held = h_before(u + 1)["),
    ),
    "a reset is that of the step itself": (
        ONE_BLOCK,
        (_OPTIONS, "length_[r], s + !kBackward)", "length_[r], s)"),
    ),
    "a row is reset where it has no step": (
        CLUSTER,
        (_OPTIONS, "return t < length ? p", "return t < p.T ? p"),
    ),
    "the first state is not reset": (
        CLUSTER,
        (_OPTIONS, "return reset_before(p, row, length_of(p, row), 0) != 0;", "return false;"),
    ),
    "a state is sent as if it were not reset": (
        CLUSTER,
        ("cluster.cu", "exists ? next : 0.f", "exists ? v : 0.f"),
    ),
    "the reset of one row is that of the other": (
        CLUSTER,
        (_OPTIONS, "value = r == i ? values[i] : value", "value = r == i ? value : values[i]"),
    ),
    "later resets are not looked up": (
        ONE_BLOCK,
        (_OPTIONS, "next_cut_[r] = look_up_cut(r, s + 32 + lane_);", ""),
    ),
    "what resets cut off is lost": (ONE_BLOCK, (_OPTIONS, "cut_off_ += value;", "")),
    "what resets cut off beside the product is lost": (
        CLUSTER,
        (_OPTIONS, "p.options.resets_to_h0 ? carry_ + carry_cut_off_ : carry_", "carry_"),
    ),
    "what goes beside the product passes a reset": (
        ONE_BLOCK,
        (_OPTIONS, "carry_cut_off_ += carry_;\n    carry_ = 0.f;", "carry_cut_off_ += carry_;"),
    ),
    "nothing goes beside the product": (
        CLUSTER,
        (_OPTIONS, "carry_ = cells::Leaky::to_state(grad, leak_);", ""),
    ),
    "grad_h_last is left out": (
        ONE_BLOCK,
        (_OPTIONS, "kBackward && p.first ? p.first[at] : 0.f", "0.f"),
    ),
    "the gradient of a leak is added twice": (
        ONE_BLOCK,
        (_OPTIONS, "leak_sum_ += leak_run_;\n    leak_run_ = 0.f;", "leak_sum_ += leak_run_;"),
    ),
    "rows start where they did a turn before": (
        CLUSTER,
        (_OPTIONS, "s - turn_ < 32 ? now_start_ : next_start_", "now_start_"),
    ),
    "starts are not turned": (ONE_BLOCK, (_OPTIONS, _TURN, "")),
    "ids start where they did a turn before": (
        ONE_BLOCK,
        ("single_block_inputs.cuh", "start_ = start_of(p_, s + 64 + first_);", ""),
    ),
    "a state before is read when the next has come": (
        ONE_BLOCK,
        (
            _STEPS,
            "before[r] = inputs_.before(u, g + r);\n          add[r] = inputs_.take("
            "u, g + r, s, saved[r]);",
            "add[r] = inputs_.take(u, g + r, s, saved[r]);\n          wait_copies();\n"
            "          before[r] = inputs_.before(u, g + r);",
        ),
    ),
}
QUICK = (
    "a block goes on after its longest sequence",
    "a reset is that of the step itself",
    "a state is sent as if it were not reset",
    "what resets cut off is lost",
)
