// A team whose workers come late by turns, so that the others' wait ends in sleep, and are woken.
#pragma once

#include <atomic>
#include <chrono>
#include <thread>
#include <vector>

#include "cpu/parallel.h"

namespace rnnfast {

// Whether every worker saw, after each barrier, what all others had written before it.
inline bool everyone_meets(int64_t workers) {
  constexpr int kRounds = 300;
  std::vector<int> rounds(2 * workers, 0);  // in turns: of one parity until all have read the other
  std::atomic<bool> met{true};
  run_team(workers, [&](const Team& team) {
    for (int round = 1; round <= kRounds; ++round) {
      const int64_t half = round % 2 * workers;
      team.each([&](int64_t worker) {
        // long enough for a sleep of those who wait, every third round for nobody
        if (round % 3 != 0 && worker == round % workers)
          std::this_thread::sleep_for(std::chrono::microseconds(20 * (round % 20)));
        rounds[half + worker] = round;
      });
      team.sync();
      for (int64_t worker = 0; worker < workers; ++worker) {
        if (rounds[half + worker] != round) met = false;
      }
    }
  });
  return met;
}

}  // namespace rnnfast
