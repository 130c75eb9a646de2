// The heap that torch's CPU tensors lie in, the results of our operators among them.
#pragma once

namespace rnnfast {

// Lets the heap keep what is freed for what is allocated next. glibc gives memory back to the
// system where more lies free at the heap's end than twice the largest block that it has ever
// unmapped; with 1 MB gradients a training loop lost and faulted in those pages at every tenth
// minibatch or so, 3 us for each of 256 (the textbook's loop, one sequence at H = 512: 6 % of its
// time). Does nothing with another allocator, or where the environment sets glibc's thresholds.
void keep_freed_memory();

}  // namespace rnnfast
