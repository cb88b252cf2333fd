// What this processor and this operating system can run.
#pragma once

#include <string>
#include <vector>

#include "kernels.hpp"

namespace resq {

// Instruction-set extensions that the kernels may use and that both the processor
// and the operating system support, by their usual lower-case names.
std::vector<std::string> cpu_features();

// Kernel variants that are compiled in and runnable here, best first; "portable" is always last.
std::vector<std::string> isas();

// Those of one variant. Throws std::invalid_argument where `isas` does not name it.
const Kernels* kernels_for(const std::string& isa);

}  // namespace resq
