// The sizes that are run, and by how many workers on how many threads.
#pragma once

#include <cstdint>
#include <vector>

#include "naive.h"

namespace rnnfast {

struct Run {
  naive::Sizes sizes;
  int64_t workers, threads;
};

inline std::vector<Run> all_runs() {
  std::vector<Run> runs;
  const int64_t steps[] = {1, 2, 9}, classes[] = {1, 5, 28};
  for (const int64_t B : {0, 1, 2, 3, 5, 9, 33}) {
    for (const int64_t H : {1, 3, 17, 33, 70}) {
      for (const int64_t T : steps) {
        const auto i = static_cast<int64_t>(runs.size());
        // Rounds of lengths without a common divisor: in time everything meets everything.
        const int64_t crew = 1 + i / 3 % 4;
        runs.push_back({{T, B, H, classes[i / 5 % 3], i / 2 % 2 == 1}, crew, i % 7 < 5 ? crew : 2});
      }
    }
  }
  // Columns of one step shared out to 2, 3 and 4 workers, also to more of them than threads.
  runs.push_back({{3, 1, 301, 5, false}, 2, 2});
  runs.push_back({{2, 3, 200, 28, true}, 3, 3});
  runs.push_back({{9, 5, 170, 5, false}, 4, 4});
  runs.push_back({{2, 5, 170, 5, false}, 4, 2});
  // Several workers to a sum of gradients; a sum over more rows than stay in the cache.
  runs.push_back({{9, 33, 70, 28, false}, 6, 6});
  runs.push_back({{40, 33, 17, 28, false}, 1, 1});
  return runs;
}

}  // namespace rnnfast
