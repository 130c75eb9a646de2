// All sizes of the recurrence's backward tile.
#include "recurrence_tiles.h"
#include "tile_sizes.h"

namespace rnnfast::RNNFAST_ISA {

template void run_tile(int, int, const BackwardTile<float>&);
template void run_tile(int, int, const BackwardTile<double>&);

}  // namespace rnnfast::RNNFAST_ISA
