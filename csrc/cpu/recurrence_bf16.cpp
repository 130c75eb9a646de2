// The layer forward with h and W_hh rounded to bfloat16 for their product: twice the arithmetic
// rate where the CPU multiplies such numbers, and half the memory to read. All else is float32, the
// states that come out among it.
#include "directions.h"
#include "inputs.h"
#include "isa.h"
#include "tile_sizes.h"
#include "work.h"

namespace rnnfast::RNNFAST_ISA {

namespace {

// ForwardTile with a product of pairs.
struct RoundedForwardTile : ForwardTile<float> {
  const Pair* W;       // the packed panel
  const Pair* before;  // the first of the rows
  Pair* after;
  int64_t pairs_stride;

  template <int Rows, int Vectors>
  void run() const {
    Tile<float, Rows, Vectors> tile;
    load_inputs(tile);
    tile.multiply(depth_of<Pair>(layer.H), before, pairs_stride, W);
    activate(tile);
    tile.store_rows(after + panel.column / 2, pairs_stride);
    store_hs(tile);
  }
};

class RoundedForward : public Recurrence<float> {
 public:
  explicit RoundedForward(const RnnForwardArgs<float>& args)
      : Recurrence(args, Steps(args.T, args.B), {false, 1}),
        args_(args),
        inputs_(args, args.x, layer_, is_cut()),
        stride_(with_gap<Pair>(layer_.width / 2)) {
    allocate(
        [&] {
          memory_.take(W_, depth_of<Pair>(args.H) * layer_.width);
          inputs_.lay_out(memory_);
        },
        [&](Region<float>& region) {
          memory_.take(region.h, 2 * region.count * stride_);
          inputs_.lay_out(memory_, region);
        },
        [&](Region<float>& region, int64_t first) {
          inputs_.lay_out_rows(memory_, region, first);
        });
  }

  void run() const {
    run_team(split_.workers, [&](const Team& team) {
      team.each([&](int64_t worker) { prepare(worker); });
      team.sync();
      Directions<RoundedForward>(*this, nullptr)
          .each_step(
              team, 0, args_.T, 1,
              [](const RoundedForward& pass, int64_t worker, int64_t t) { pass.step(worker, t); });
      team.each([&](int64_t worker) { copy_last_state(worker, args_.hs, args_.h_last); });
    });
  }

 private:
  // In the region's room for states of floats: pairs are as large, and half as many.
  Pair* state(const Region<float>& region, int64_t t, int64_t row) const {
    return reinterpret_cast<Pair*>(region.h) + (t % 2 * region.count + row) * stride_;
  }

  void prepare(int64_t worker) const {
    const Share panels = share_of(layer_.panels.count, worker, split_.workers);
    for (int64_t p = panels.begin; p < panels.end; ++p) {
      pack(args_.W_hh, args_.H, args_.H, Panel(layer_.panels, p), W_);
    }
    const Region<float>& region = region_of(worker);
    const Share rows = share_in_region(region.count, worker);
    for (int64_t n = rows.begin; n < rows.end; ++n) {
      const float* h0 = args_.h0 + (region.first + n) * args_.H;
      for (int64_t c = 0; c < layer_.width; c += kLanes<float>) {
        store_pairs(state(region, 0, n) + c / 2, load_first(h0 + c, args_.H - c));
      }
    }
    inputs_.prepare(region, rows, columns_looked_after(worker));
  }

  void step(int64_t worker, int64_t t) const {
    const Region<float>& region = region_of(worker);
    inputs_.prepare_step(t, region, columns_of(worker));
    const int64_t at = layer_.at(t, region.first);
    each_tile(worker, t, [&](const Panel& panel, int64_t row, int rows) {
      run_tile(rows, panel.vectors,
               RoundedForwardTile{{layer_, region, t, at, row, panel, args_.hs},
                                  W_ + depth_of<Pair>(args_.H) * panel.column,
                                  state(region, t, row),
                                  state(region, t + 1, row),
                                  stride_});
    });
    if (columns_of(worker).end < layer_.width) return;  // another has stored the last pairs
    for (int64_t n = 0; n < region.count; ++n) clear_half_pair(state(region, t + 1, n), args_.H);
  }

  const RnnForwardArgs<float>& args_;
  Inputs<float> inputs_;
  const int64_t stride_;
  Pair* W_ = nullptr;  // packed: W_hh
};

}  // namespace

void rnn_forward_bf16(const RnnForwardArgs<float>& args) { RoundedForward(args).run(); }

}  // namespace rnnfast::RNNFAST_ISA
