// Which class wins at each pixel of a picture, from scores of a coarser grid.
#pragma once

#include <cstdint>

#include "kernels.hpp"

namespace resq {

// scores: [classes][h][w]; they are resized bilinearly (corners not aligned) to `rows` by
// `columns`, and the largest wins, the lower id on a tie. ids: [rows][columns]. All counts are
// at least 1, `classes` at most 256.
void winners(const Kernels& kernels, const float* scores, int classes, int h, int w, int rows,
             int columns, uint8_t* ids);

}  // namespace resq
