#include "winners.hpp"

#include <algorithm>
#include <cstddef>
#include <utility>
#include <vector>

namespace resq {
namespace {

// Where each place of a resized axis comes from: two places of the old one, and their weights.
struct Axis {
  std::vector<int32_t> first, second;
  std::vector<float> w0, w1;

  Axis(int from, int to) : first(to), second(to), w0(to), w1(to) {
    const float step = float(from) / float(to);
    for (int i = 0; i < to; ++i) {
      const float at = std::max((float(i) + 0.5f) * step - 0.5f, 0.0f);
      first[i] = std::min(int(at), from - 1);
      second[i] = std::min(first[i] + 1, from - 1);
      w1[i] = at - float(first[i]);
      w0[i] = 1.0f - w1[i];
    }
  }
};

// One row of every class, as wide as the picture.
struct Line {
  int row = -1;
  std::vector<float> values;
};

}  // namespace

void winners(const Kernels& kernels, const float* scores, int classes, int h, int w, int rows,
             int columns, uint8_t* ids) {
  const Axis down(h, rows), across(w, columns);
  const size_t width = size_t(columns);
  Line lines[2];
  for (Line& line : lines) line.values.resize(size_t(classes) * width);
  std::vector<float> best(width);
  std::vector<int32_t> owners(width);
  const auto stretched = [&](Line& line, int row) {
    if (line.row == row) return line.values.data();
    line.row = row;
    for (int k = 0; k < classes; ++k)
      kernels.stretch(line.values.data() + k * width, scores + (ptrdiff_t(k) * h + row) * w,
                      across.first.data(), across.second.data(), across.w0.data(),
                      across.w1.data(), columns);
    return line.values.data();
  };
  for (int y = 0; y < rows; ++y) {
    if (lines[1].row == down.first[y]) std::swap(lines[0], lines[1]);
    const float* above = stretched(lines[0], down.first[y]);
    // the last row has none below it
    const bool alone = down.second[y] == down.first[y];
    const float* below = alone ? above : stretched(lines[1], down.second[y]);
    for (int k = 0; k < classes; ++k)
      kernels.contend(best.data(), owners.data(), k, above + k * width, below + k * width,
                      down.w0[y], down.w1[y], columns);
    std::transform(owners.begin(), owners.end(), ids + y * width,
                   [](int32_t id) { return uint8_t(id); });
  }
}

}  // namespace resq
