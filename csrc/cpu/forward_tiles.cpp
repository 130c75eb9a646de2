// All sizes of the recurrence's forward tile.
#include "recurrence_tiles.h"
#include "tile_sizes.h"

namespace rnnfast::RNNFAST_ISA {

template void run_tile(int, int, const ForwardTile<float>&);
template void run_tile(int, int, const ForwardTile<double>&);

}  // namespace rnnfast::RNNFAST_ISA
