// All sizes of the readout's tile.
#include "readout.h"
#include "tile_sizes.h"

namespace rnnfast::RNNFAST_ISA {

template void run_tile(int, int, const LogitsTile<float>&);
template void run_tile(int, int, const LogitsTile<double>&);

}  // namespace rnnfast::RNNFAST_ISA
