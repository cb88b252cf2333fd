// What a frame needs beside the state: maps of what changed, lists, and rows under way. Private to
// the program and its frames.
#pragma once

#include <algorithm>
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <vector>

#include "kernels.hpp"
#include "program.hpp"

namespace resq {

constexpr size_t kNowhere = std::numeric_limits<size_t>::max();
constexpr size_t kAlign = 64;
constexpr int kMostMembers = 16;  // threads of one frame

inline size_t round_up(size_t n, size_t to) { return (n + to - 1) / to * to; }

struct Map {
  std::vector<uint8_t> bytes, rows;
  void size(int rows_, int width) {
    bytes.assign(size_t(rows_) * width, 0);
    rows.assign(size_t(rows_), 0);
  }
  void clear() {
    std::fill(bytes.begin(), bytes.end(), uint8_t(0));
    std::fill(rows.begin(), rows.end(), uint8_t(0));
  }
};

// On a cache line of its own.
struct alignas(64) Counter {
  std::atomic<int> value{0};
};

// What one thread needs for itself.
struct Private {
  std::vector<float> rows, delta, room, against;
  std::vector<uint8_t> map, rest, line;
  std::vector<int32_t> listed[2];  // pixels of its lines, and how many
  std::vector<int32_t> ends;
  int count[2] = {};
  std::vector<ThinDecision> decisions;
  std::vector<GemmBlock> blocks;
  std::vector<LayerStats> stats;
};

// What one frame needs beside the state; programs keep it for the next frame.
struct Scratch {
  explicit Scratch(const Program& program);

  std::vector<Map> changed;                 // by tensor
  std::vector<Map> active;                  // by layer
  std::vector<std::vector<float>> norms;    // by layer, ‖x‖ of every pixel
  std::vector<std::vector<uint8_t>> bits;   // by layer
  std::vector<std::vector<uint8_t>> current;  // by tensor: changed rows, where the state keeps x^k
  std::vector<Counter> next;                // by step, list and thread: the next pixel to take
  std::vector<Private> privates;
  std::vector<uint8_t> state;               // for frames that leave none
};

}  // namespace resq
