// All sizes of the tile of a weight gradient.
#include "tile_sizes.h"
#include "weight_gradient.h"

namespace rnnfast::RNNFAST_ISA {

template void run_tile(int, int, const WeightGradient<float>::Block&);
template void run_tile(int, int, const WeightGradient<double>::Block&);

}  // namespace rnnfast::RNNFAST_ISA
